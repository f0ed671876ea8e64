import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.records import Interval, Origin, Prediction, System, SystemResult
from cotpress.report.comparison import answers_of, compare
from cotpress.report.differences import compared, differences, differences_csv, differences_grid, differences_note
from cotpress.report.results import RunResults, collect, write_results
from cotpress.report.stage import report_collection
from cotpress.statistics import paired_accuracy_difference
from cotpress.store.tables import write_records


def answers(correct: list[bool], tokens: int = 10, sample: int = 0) -> list[Prediction]:
    return [
        Prediction(
            id=f"q{i}",
            family="f",
            question="?",
            answer="1",
            system="any",
            ratio=0.5,
            output="1",
            predicted="1",
            correct=right,
            num_tokens=tokens + i,
            num_thinking_tokens=tokens,
            finish_reason="stop",
            latency_s=0.1,
            sample=sample,
        )
        for i, right in enumerate(correct)
    ]


def of_seed(predictions: list[Prediction], seed: int = 1) -> dict[int, list[Prediction]]:
    return {seed: predictions}


def at(ratio: float, name: str) -> System:
    return System(name=name, origin=Origin.scorer, ratio=ratio)


def test_only_systems_of_the_same_ratio_are_paired() -> None:
    rows = differences(
        {
            at(ratio, name): of_seed(answers([True] * number))
            for ratio, name, number in ((0.5, "a", 1), (0.7, "b", 1), (0.5, "c", 1), (0.7, "d", 0))
        }
    )
    assert [(d.system, d.minus, d.ratio) for d in rows] == [("a", "c", 0.5)]


def test_difference_is_taken_question_by_question() -> None:
    ours, theirs = [True] * 30 + [False] * 10, [True] * 10 + [False] * 30
    (row,) = differences({at(0.5, "a"): of_seed(answers(ours, 12)), at(0.5, "b"): of_seed(answers(theirs, 10))})
    assert row.accuracy.value == 0.5
    assert 0 < row.accuracy.low < 0.5 < row.accuracy.high
    assert (row.tokens.value, row.tokens.low, row.tokens.high) == (2.0, 2.0, 2.0)


def test_seeds_are_compared_with_the_same_seed() -> None:
    ours = of_seed(answers([True, True, False, False])) | of_seed(answers([True, False, False, False]), 2)
    theirs = of_seed(answers([False] * 4)) | of_seed(answers([True, False, False, False]), 2)
    (row,) = differences({at(0.5, "a"): ours, at(0.5, "b"): theirs | of_seed(answers([True] * 4), 3)})
    assert (row.accuracy.value, row.accuracy.n, row.num_seeds) == (pytest.approx(1 / 4), 4, 2)


def test_students_without_a_common_seed_are_compared_by_question() -> None:
    two = of_seed(answers([True, True, False, False])) | of_seed(answers([True, False, False, False]), 2)
    (row,) = differences({at(0.5, "a"): two, at(0.5, "b"): of_seed(answers([False] * 4), 3)})
    assert (row.accuracy.value, row.accuracy.n, row.num_seeds) == (pytest.approx(3 / 8), 4, 1)


def test_student_that_seeds_share_stands_beside_every_seed() -> None:
    shared, other = answers([False] * 4), answers([True] * 4)
    two = of_seed(answers([True, True, False, False])) | of_seed(answers([True, False, False, False]), 2)
    rows = differences(
        {
            at(0.5, "a"): of_seed(shared) | of_seed(shared, 2),
            at(0.5, "b"): two,
            at(0.5, "c"): dict.fromkeys((1, 2), other),
        }
    )
    assert [(r.system, r.minus, r.accuracy.value, r.num_seeds) for r in rows] == [
        ("a", "b", pytest.approx(-3 / 8), 2), ("a", "c", -1.0, 1), ("b", "c", pytest.approx(-5 / 8), 2),
    ]  # fmt: skip


def test_intervals_of_one_table_hold_together() -> None:
    rng = np.random.default_rng(0)
    verdicts = {at(0.5, name): (rng.random(60) < 0.5).tolist() for name in "abc"}
    rows = differences({system: of_seed(answers(right)) for system, right in verdicts.items()}, [30], confidence=0.91)
    assert [(r.system, r.minus) for r in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    first, second, _ = (answers(right) for right in verdicts.values())
    assert rows[0].accuracy == paired_accuracy_difference(first, second, 0.99)  # 3 pairs with 3 intervals each


def test_only_answers_within_a_budget_count_at_it() -> None:
    (row,) = differences(
        {at(0.5, "a"): of_seed(answers([True] * 8, 5)), at(0.5, "b"): of_seed(answers([True] * 8, 100))}, [50, 20]
    )
    assert list(row.at_budgets) == [20, 50]
    assert row.accuracy.value == 0.0
    assert row.at_budgets[50].value == 1.0


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.data())
def test_exchanged_systems_change_the_sign(ours: list[bool], data: st.DataObject) -> None:
    theirs = data.draw(st.lists(st.booleans(), min_size=len(ours), max_size=len(ours)))
    (forth,) = differences({at(0.5, "a"): of_seed(answers(ours)), at(0.5, "b"): of_seed(answers(theirs))})
    (back,) = differences({at(0.5, "b"): of_seed(answers(theirs)), at(0.5, "a"): of_seed(answers(ours))})
    assert forth.accuracy.value == pytest.approx(-back.accuracy.value)
    assert forth.accuracy.low == pytest.approx(-back.accuracy.high)


def test_tables_hold_every_pair_and_star_intervals_without_zero() -> None:
    hit, missed = of_seed(answers([True] * 40)), of_seed(answers([False] * 40))
    rows = differences({at(0.5, "a|x"): hit, at(0.5, "b"): missed, at(0.5, "c"): missed}, [21])
    text = differences_grid(rows).markdown()
    assert text.count(" | 0.5 | ") == 3
    assert "| a\\|x | b | 0.5 | +100.0 [" in text
    assert "] * |" in text
    assert differences_note(rows, 0.95) == (
        "Paired by question and seed; * does not hold 0. The 9 intervals hold together with 95 %, so each interval has "
        "99.44 % (Bonferroni); they cover questions alone, as there is one seed."
    )
    lines = list(csv.DictReader(io.StringIO(differences_csv(rows))))
    assert next((r["system"], r["minus"], float(r["accuracy"])) for r in lines) == ("a|x", "b", 1.0)
    assert float(lines[0]["accuracy_at_21_tokens"]) == 11 / 40


def test_no_pair_gives_an_empty_table() -> None:
    assert differences({}) == []
    assert differences_csv([]).count("\n") == 1


def run(path: Path, correct: dict[str, list[bool]], *, seed: int = 1, **essentials: str) -> None:
    rows = tuple(
        SystemResult(
            system=system,
            target_ratio=0.5,
            actual_ratio=0.5,
            accuracy=Interval(value=0.5, low=0.4, high=0.6, n=4),
            mean_tokens=Interval(value=9, low=8, high=10, n=4),
            truncation_rate=0.0,
            seconds_per_sample=0.1,
            artifacts={"evaluate": f"evaluate/{system}-{path.name if system != 'shared' else 0}"},
        )
        for system in correct
    )
    write_results(path, RunResults(name="r", model="m", benchmark="b", seed=seed, rows=rows, essentials=essentials))
    written = [replace(p, system=system) for system, right in correct.items() for p in answers(right)]
    write_records(path / "predictions.parquet", written, Prediction)


def test_report_counts_a_system_that_runs_share_once(tmp_path: Path) -> None:
    run(tmp_path / "one", {"shared": [True, False], "a": [True, True]}, seed=1)
    run(tmp_path / "two", {"shared": [True, False], "a": [False, True]}, seed=2)
    (comparison,) = compare(collect(tmp_path).runs)
    (row,) = compared(comparison, answers_of(comparison))
    assert (row.system, row.minus, row.accuracy.value) == ("shared", "a", 0.5 - 0.75)
    report_collection(tmp_path)
    assert (tmp_path / "differences.csv").read_text().count("\n") == 2
    assert "| shared | a | 0.5 | -25.0 [" in (tmp_path / "differences.md").read_text()


def test_run_with_unreadable_predictions_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "one", {"a": [True], "b": [False]})
    run(tmp_path / "two", {"a": [False], "b": [True]}, seed=2)
    (tmp_path / "two" / "predictions.parquet").write_bytes(b"cut off")
    (comparison,) = compare(collect(tmp_path).runs)
    (row,) = compared(comparison, answers_of(comparison))
    assert row.accuracy.value == 1.0
    assert "1 of 2 runs are not in the paired differences" in caplog.text


def test_students_of_different_settings_are_different_systems(tmp_path: Path) -> None:
    run(tmp_path / "one", {"a": [True, True]}, reference="lora")
    run(tmp_path / "two", {"a": [False, True]}, reference="none")
    (comparison,) = compare(collect(tmp_path).runs)
    (row,) = compared(comparison, answers_of(comparison))
    assert (row.system, row.minus, row.accuracy.value) == ("a reference=lora", "a reference=none", 0.5)


def test_seeds_of_different_settings_are_not_averaged_together(tmp_path: Path) -> None:
    for seed, right in ((1, True), (2, False)):
        run(tmp_path / f"lora{seed}", {"a": [True, right]}, seed=seed, reference="lora")
    run(tmp_path / "none1", {"a": [False, False]}, seed=1, reference="none")
    (comparison,) = compare(collect(tmp_path).runs)
    assert sorted(row.system for row in comparison.rows) == [
        "a reference=lora seed=1",
        "a reference=lora seed=2",
        "a reference=none seed=1",
    ]
    (row,) = compared(comparison, answers_of(comparison))
    assert (row.system, row.minus, row.accuracy.value) == ("a reference=lora", "a reference=none", 1.0)  # of seed 1
