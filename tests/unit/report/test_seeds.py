import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cotpress.config import ReportConfig
from cotpress.records import Interval, Prediction, SystemResult
from cotpress.report.comparison import answers_of, compare
from cotpress.report.differences import SeedsRow, over_seeds, seeds_grid, verdict
from cotpress.report.results import RunResults, collect, write_results
from cotpress.report.stage import report_collection
from cotpress.statistics import accuracy_interval, difference_interval
from cotpress.store.tables import read_records, write_records
from cotpress.tasks.report import report


def answered(question: int, system: str, ratio: float, correct: bool, tokens: int) -> Prediction:
    return Prediction(
        id=f"q{question}",
        family="f",
        question="?",
        answer="1",
        system=system,
        ratio=ratio,
        output="1",
        predicted="1",
        correct=correct,
        num_tokens=tokens,
        num_thinking_tokens=tokens,
        finish_reason="stop",
        latency_s=0.1,
    )


def run(path: Path, seed: int, rows: dict[tuple[str, float], list[bool]], *, shared: tuple[str, ...] = ()) -> None:
    number = Interval(value=0.5, low=0.4, high=0.6, n=4)
    written = [
        SystemResult(
            system=system,
            target_ratio=ratio,
            actual_ratio=None if system == "Base" else ratio - 0.01 * seed,
            accuracy=number,
            mean_tokens=number,
            truncation_rate=0.0,
            seconds_per_sample=0.1,
            artifacts={"evaluate": f"evaluate/{system}-{ratio}-{0 if system in shared else seed}"},
        )
        for system, ratio in rows
    ]
    write_results(path, RunResults(name="r", model="m", benchmark="b", seed=seed, rows=tuple(written)))
    predictions = [
        answered(i, system, ratio, correct, 10 * seed + i)
        for (system, ratio), all_correct in rows.items()
        for i, correct in enumerate(all_correct)
    ]
    write_records(path / "predictions.parquet", predictions, Prediction)


def seeds_of(folder: Path) -> dict[tuple[str, float], SeedsRow]:
    (comparison,) = compare(collect(folder).runs)
    return {(row.system, row.target_ratio): row for row in over_seeds(comparison, answers_of(comparison))}


@pytest.fixture
def two_seeds(tmp_path: Path) -> Path:
    for seed, right in ((1, [True, True, False, False]), (2, [True, False, False, False])):
        run(
            tmp_path / f"s{seed}",
            seed,
            {("a", 0.5): right, ("Original", 1.0): [True] * 4, ("Base", 1.0): [False, False, False, True]},
            shared=("Base",),
        )
    return tmp_path


def test_seeds_are_averaged_within_a_question(two_seeds: Path) -> None:
    row = seeds_of(two_seeds)["a", 0.5]
    assert (row.accuracy.value, row.accuracy.n) == (3 / 8, 4)
    assert row.by_seed == ((1, 0.5), (2, 0.25))
    assert row.tokens.value == pytest.approx(1.5 + 15)
    assert row.actual_ratio == pytest.approx(0.485)
    assert row.against_original is not None
    assert row.against_original.value == pytest.approx(3 / 8 - 1)


def test_samples_of_one_question_do_not_count_as_questions(two_seeds: Path) -> None:
    row = seeds_of(two_seeds)["Original", 1.0]
    alone = accuracy_interval([answered(i, "a", 1.0, True, 1) for i in range(8)])
    assert row.accuracy.low < alone.low
    assert row.against_original is None


def test_system_that_seeds_share_counts_once_without_a_seed_in_its_name(two_seeds: Path) -> None:
    (comparison,) = compare(collect(two_seeds).runs)
    assert [r.system for r in comparison.rows if r.system.startswith("Base")] == ["Base"]
    row = seeds_of(two_seeds)["Base", 1.0]
    assert row.by_seed == ((1, 0.25),)
    assert row.actual_ratio is None


def test_baselines_stand_first_and_ratios_fall(two_seeds: Path) -> None:
    run(two_seeds / "more", 2, {("a", 0.9): [True] * 4, ("b", 0.5): [True] * 4})
    assert [key[0] for key in seeds_of(two_seeds)][:2] == ["Original", "Base"]
    assert [key for key in seeds_of(two_seeds) if key[0] == "a"] == [("a", 0.9), ("a", 0.5)]


def test_single_seed_has_no_table_over_seeds(tmp_path: Path) -> None:
    run(tmp_path / "s1", 1, {("a", 0.5): [True]})
    assert seeds_of(tmp_path) == {}
    report_collection(tmp_path)
    assert not (tmp_path / "seeds.csv").exists()
    assert "Over all seeds" not in (tmp_path / "report.html").read_text()


def test_report_writes_the_table_over_seeds(two_seeds: Path) -> None:
    report_collection(two_seeds)
    lines = list(csv.DictReader((two_seeds / "seeds.csv").read_text().splitlines()))
    assert [(r["seed"], float(r["accuracy"])) for r in lines if r["system"] == "a"] == [
        ("", 3 / 8),
        ("1", 0.5),
        ("2", 0.25),
    ]
    assert all(None not in r.values() for r in lines), "lines differ in length, which some readers refuse"
    assert "| a | 0.5 | 0.48 | 37.5 [" in (two_seeds / "seeds.md").read_text()
    assert "Over all seeds" in (two_seeds / "report.html").read_text()


def test_names_are_escaped_in_markdown(two_seeds: Path) -> None:
    row = replace(next(iter(seeds_of(two_seeds).values())), system="a|<b>")
    assert "| a\\|&lt;b> |" in seeds_grid([row]).markdown()


def difference(low: float, high: float) -> Interval:
    return Interval(value=(low + high) / 2, low=low, high=high, n=100)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.05, 0.05, "keeps accuracy within 5 points"),
        (-0.049, -0.01, "keeps accuracy within 5 points"),  # a real loss, but a small one
        (-0.051, 0.02, "not shown"),
        (-0.02, 0.051, "not shown"),
        (-0.08, -0.01, "loses"),
        (-0.3, -0.2, "loses"),
        (0.01, 0.06, "gains"),
        (-1.0, 1.0, "not shown"),
    ],
)
def test_verdict_is_that_of_the_whole_interval(low: float, high: float, expected: str) -> None:
    assert verdict(difference(low, high), 3, 5.0) == expected


def test_verdict_needs_three_seeds_and_has_the_margin_of_the_report() -> None:
    narrow = difference(-0.02, 0.02)
    assert verdict(narrow, 2, 5.0) == "not shown (2 of 3 seeds)"
    assert verdict(narrow, 3, 1.5) == "not shown"
    assert verdict(narrow, 3, 2.0) == "keeps accuracy within 2 points"


@pytest.fixture
def three_seeds(tmp_path: Path) -> Path:
    """Original, a student that answers like it but for one question in fifty, one without a right answer, and Base."""
    for seed in (1, 2, 3):
        right = [i % 3 > 0 for i in range(200)]
        like = [c != (i % 50 == seed) for i, c in enumerate(right)]
        rows = {
            ("like", 0.5): like,
            ("none", 0.5): [False] * 200,
            ("Original", 1.0): right,
            ("Base", 1.0): [False] * 200,
        }
        run(tmp_path / f"s{seed}", seed, rows, shared=("Base",))
    return tmp_path


def test_table_over_seeds_has_verdicts_at_the_level_of_all_comparisons(three_seeds: Path) -> None:
    rows = seeds_of(three_seeds)
    assert {name: row.verdict for (name, _), row in rows.items()} == {
        "Original": "", "Base": "loses", "like": "keeps accuracy within 5 points", "none": "loses",
    }  # fmt: skip
    right = [i % 3 > 0 for i in range(200)]
    grid = [[float(c != (i % 50 == s)) - c for i, c in enumerate(right)] for s in (1, 2, 3)]
    assert rows["like", 0.5].against_original == difference_interval(np.array(grid), 1 - 0.05 / 3)


def test_report_says_level_scope_margin_and_verdicts(three_seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(ReportConfig(runs=str(three_seeds), margin=0.1, viewer_traces=0), three_seeds)
    page, shown = (three_seeds / "report.html").read_text(), capsys.readouterr().out
    note = (
        "The 3 differences from Original hold together with 95 %, so each interval has 98.33 % (Bonferroni); they "
        "cover seeds and questions, but questions alone where there is one seed. Accuracy is kept if the whole "
        "interval lies within 0.1 points; a verdict needs 3 seeds."
    )
    assert note in page
    assert note in shown
    assert "\n  like at 0.5: not shown, " in shown
    assert "\n  none at 0.5: loses, " in shown
    assert re.search(r"95 % intervals, each by itself, cover the \d+ questions alone, not other seeds", shown)
    lines = list(csv.DictReader((three_seeds / "seeds.csv").read_text().splitlines()))
    assert [r["verdict"] for r in lines if r["seed"] == ""] == ["", "loses", "not shown", "loses"]
    assert "| not shown |" in (three_seeds / "seeds.md").read_text()


def test_students_that_answered_other_questions_are_one_student(tmp_path: Path) -> None:
    run(tmp_path / "s1", 1, {("a", 0.5): [True, True, False]})
    run(tmp_path / "s2", 2, {("a", 0.5): [True]})
    path = tmp_path / "s2" / "predictions.parquet"
    write_records(path, [replace(p, id="other") for p in read_records(path, Prediction)], Prediction)
    row = seeds_of(tmp_path)["a", 0.5]
    assert (row.accuracy.value, row.accuracy.n) == (0.75, 4)
