import csv
from dataclasses import replace
from pathlib import Path

import pytest

from cotpress.records import Interval, Prediction, SystemResult
from cotpress.report.comparison import answers_of, compare
from cotpress.report.differences import SeedsRow, over_seeds, seeds_grid
from cotpress.report.results import RunResults, collect, write_results
from cotpress.report.stage import report_collection
from cotpress.statistics import accuracy_interval
from cotpress.store.tables import write_records


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
    assert "| a | 0.5/0.48 | 37.5 [" in (two_seeds / "seeds.md").read_text()
    assert "Over all seeds" in (two_seeds / "report.html").read_text()


def test_names_are_escaped_in_markdown(two_seeds: Path) -> None:
    row = replace(next(iter(seeds_of(two_seeds).values())), system="a|<b>")
    assert "| a\\|&lt;b> |" in seeds_grid([row]).markdown()
