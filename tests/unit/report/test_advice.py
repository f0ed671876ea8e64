"""Students that are less accurate than Original: the sentence, and what it offers to change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotpress.records import ORIGINAL, PREDICTIONS_FILE, Interval, Origin, Prediction, System, SystemResult
from cotpress.report import advice as module
from cotpress.report.advice import COLUMNS, GUIDE, advice, measured_changes, read_changes, runs_beside
from cotpress.report.comparison import Comparison, compare
from cotpress.report.results import Run, RunResults, write_results
from cotpress.report.stage import show_run
from cotpress.statistics import difference_interval
from cotpress.store.grid import csv_text
from cotpress.store.tables import write_records
from experiments.answers import Answers
from experiments.testbed import advice as command
from support.judged import answer

NUM_QUESTIONS = 40
SETTINGS = {
    "data": {"name": "planted", "num_traces": 60}, "benchmark": {"name": "planted"}, "evaluation": {"samples": 1},
    "compression": {"granularity": "word"}, "sft": {"start": "base"},
}  # fmt: skip


def run(folder: Path, scorer: str, num_right: int, gap: float, ratio: float = 0.7, **change: Any) -> Run:
    """Write a finished run with Original, which answers everything right, and one student."""
    right = num_right / NUM_QUESTIONS
    own = System(name=scorer, origin=Origin.scorer, ratio=ratio)

    def row(system: System, accuracy: float, difference: Interval | None) -> SystemResult:
        at = Interval(value=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, n=NUM_QUESTIONS)
        return SystemResult(
            system=system.label, target_ratio=system.ratio or 1.0, actual_ratio=system.ratio, accuracy=at,
            mean_tokens=replace(at, value=131.2), truncation_rate=0, seconds_per_sample=0,
            accuracy_difference=difference,
            artifacts={"evaluate": f"evaluate/{folder.name}-{system.label}"}, identity=system,
        )  # fmt: skip

    rows = (
        row(ORIGINAL, 1.0, None),
        row(own, right, Interval(value=-gap, low=-gap - 0.1, high=-gap + 0.1, n=NUM_QUESTIONS)),
    )
    confidence = change.pop("confidence", 0.95)
    settings = {**SETTINGS, "scorer": {"name": scorer}, **change}
    results = RunResults(
        name="r", model="smollm2", benchmark="planted", seed=1, rows=rows, settings=settings, confidence=confidence
    )
    write_results(folder, results)
    answers = [replace(answer(i, i < num_right), system=own.label, ratio=ratio) for i in range(NUM_QUESTIONS)]
    write_records(folder / PREDICTIONS_FILE, answers, Prediction)
    return Run(path=folder, results=results)


def table(run: Run) -> Comparison:
    (comparison,) = compare([run])
    return comparison


def planted(**change: object) -> list[module.Change]:
    row = {
        "model": "smollm2", "data": "planted", "benchmark": "planted", "scorer": "cts", "ratio": 0.7,
        "where": "sft.start=base", "setting": "compression.granularity", "old": "word", "new": "step", "points": 31.0,
        "points_low": 20.1, "points_high": 40.3, "questions": 100, "seeds": 3, "source": "experiments/testbed, cts",
    }  # fmt: skip
    return read_changes(csv_text(COLUMNS, [[(row | change)[name] for name in COLUMNS]]))


@pytest.mark.parametrize("gap", [0.1, 0.0, -0.3])
def test_student_within_its_interval_of_original_has_no_sentence(gap: float, tmp_path: Path) -> None:
    assert advice(table(run(tmp_path, "cts", 30, gap)), changes=planted()) == []


def test_without_a_measured_change_the_sentence_states_the_fact_and_names_the_guide(tmp_path: Path) -> None:
    (line,) = advice(table(run(tmp_path, "cts", 20, 0.369)), changes=[])
    assert line == (
        f"cts at 0.7 is less accurate than Original: -36.9 [-46.9, -26.9] points; what to change: {GUIDE}"
    )  # fmt: skip


def test_measured_change_of_the_own_settings_is_offered(tmp_path: Path) -> None:
    _, line = advice(table(run(tmp_path, "cts", 20, 0.369)), changes=planted())
    assert line == (
        "better: compression.granularity=step in place of word: +31.0 [+20.1, +40.3] points, measured on 3 seeds "
        "(experiments/testbed, cts)"
    )


@pytest.mark.parametrize(
    "change",
    [{"points_low": -0.1}, {"points_low": 0.0}, {"model": "qwen7b"}, {"data": "gsm8k"}, {"benchmark": "gsm8k"},
     {"scorer": "random"}, {"ratio": 0.5}, {"old": "step"}, {"where": "sft.start=original"}, {"where": "no.key=1"}],
    ids=str,
)  # fmt: skip
def test_change_that_was_not_shown_or_starts_elsewhere_is_not_offered(
    change: dict[str, object], tmp_path: Path
) -> None:
    (line,) = advice(table(run(tmp_path, "cts", 20, 0.369)), changes=planted(**change))
    assert line.endswith(GUIDE)


def test_surest_change_of_each_setting_is_offered_and_the_surest_setting_first(tmp_path: Path) -> None:
    changes = [
        *planted(), *planted(new="paragraph", points=50.0, points_low=15.0, points_high=80.0),
        *planted(setting="ratio", old="0.7", new="0.9", points=40.0, points_low=30.0, points_high=50.0),
        *planted(setting="scorer", old="cts", new="tokenskip", points=9.0, points_low=1.0, points_high=17.0),
    ]  # fmt: skip
    _, *lines = advice(table(run(tmp_path, "cts", 20, 0.369)), changes=changes)
    assert [line.split(":")[1].split(" in ")[0].strip() for line in lines] == [
        "ratio=0.9", "compression.granularity=step", "scorer=tokenskip",
    ]  # fmt: skip


def test_better_student_of_the_same_folder_is_named_first(tmp_path: Path) -> None:
    own = run(tmp_path / "a", "cts", 10, 0.75)
    run(tmp_path / "b", "tokenskip", 30, 0.25)
    run(tmp_path / "c", "cts", 36, 0.1, compression={"granularity": "step"})
    _, first, second = advice(table(own), runs_beside(own.path), planted())
    assert first.startswith("better: your cts compression.granularity=step at 0.7, +65.0 [+")
    assert first.endswith(f"points with 131 generated tokens ({tmp_path / 'c'})")
    assert "compression.granularity=step in place of word" in second


@pytest.mark.parametrize(
    ("num_right", "change"),
    [(12, {}), (36, {"data": {"name": "planted", "num_traces": 61}}), (36, {"benchmark": {"name": "gsm8k"}}),
     (36, {"evaluation": {"samples": 2}}), (36, {"confidence": 0.9})],
    ids=["not beyond the interval", "other data", "other benchmark", "other evaluation", "other level"],
)  # fmt: skip
def test_student_that_is_not_better_for_certain_or_not_comparable_is_not_named(
    num_right: int, change: dict[str, Any], tmp_path: Path
) -> None:
    own = run(tmp_path / "a", "cts", 10, 0.75)
    run(tmp_path / "b", "tokenskip", num_right, 0.1, **change)
    (line,) = advice(table(own), runs_beside(own.path), [])
    assert line.endswith(GUIDE)


def test_run_without_answers_or_results_is_passed_over(tmp_path: Path) -> None:
    own = run(tmp_path / "a", "cts", 10, 0.75)
    run(tmp_path / "b", "tokenskip", 36, 0.1)
    (tmp_path / "b" / PREDICTIONS_FILE).unlink()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.json").write_text("half")
    (line,) = advice(table(own), runs_beside(own.path), [])
    assert line.endswith(GUIDE)


def test_table_of_several_students_names_those_that_lose_and_those_that_do_not(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", "cts", 10, 0.75), run(tmp_path / "b", "random", 20, 0.5),
        run(tmp_path / "c", "tokenskip", 39, 0.02),
    ]  # fmt: skip
    (comparison,) = compare(runs)
    assert advice(comparison) == [
        "less accurate than Original beyond the interval, by points: cts at 0.7 (-75.0), random at 0.7 (-50.0); "
        "not so: tokenskip at 0.7 (-2.0)"
    ]
    (worse,) = compare(runs[:2])
    assert advice(worse)[0].endswith(f"random at 0.7 (-50.0); what to change: {GUIDE}")


def test_table_with_one_student_that_loses_names_a_better_one_in_it(tmp_path: Path) -> None:
    (comparison,) = compare([run(tmp_path / "a", "cts", 10, 0.75), run(tmp_path / "b", "tokenskip", 39, 0.02)])
    first, second = advice(comparison, changes=[])
    assert first.startswith("cts at 0.7 is less accurate than Original: -75.0")
    assert second.startswith("better: your tokenskip at 0.7, +72.5 [+")


def test_run_ends_with_the_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "measured_changes", lambda: tuple(planted()))
    show_run(run(tmp_path / "a", "cts", 10, 0.75).path)
    out = capsys.readouterr().out
    assert "  cts at 0.7 is less accurate than Original: -75.0" in out
    assert "  better: compression.granularity=step in place of word" in out


def test_guide_and_table_of_the_package_exist() -> None:
    assert all(change.points.low <= change.points.value <= change.points.high for change in measured_changes())
    page, _, heading = GUIDE.partition("#")
    text = (Path(__file__).parents[3] / page).read_text(encoding="utf-8")
    assert f"\n## {heading.replace('-', ' ').capitalize()}\n" in text


def answers_of(*systems: tuple[str, float, float]) -> Answers:
    """Three students of each system with a share of right answers, the first ones, to a hundred questions."""
    return {
        (label, ratio): {seed: [answer(i, i < 100 * share) for i in range(100)] for seed in (42, 43, 44)}
        for label, ratio, share in systems
    }


def test_command_writes_every_change_of_one_setting_upwards(tmp_path: Path) -> None:
    sweeps = {
        "cts": answers_of(("Original", 1, 0.9), ("cts granularity=step", 0.7, 0.8), ("cts granularity=word", 0.7, 0.5),
                          ("cts granularity=word", 0.9, 0.6)),
        "bounds": answers_of(("planted", 0.7, 0.9), ("Random", 0.7, 0.2)),
        "tokens": answers_of(("cts", 0.7, 0.4), ("tokenskip", 0.7, 0.45)),
        "protect": answers_of(("cts", 0.7, 0.8), ("random", 0.7, 0.7)),
        "rate": answers_of(("cts sft.tune.learning_rate=0.001", 0.7, 0.5),
                           ("cts sft.tune.learning_rate=0.003", 0.7, 0.6)),
    }  # fmt: skip
    command.write(sweeps, tmp_path / "advice.csv")
    made = read_changes((tmp_path / "advice.csv").read_text())
    assert {(c.setting, c.old, c.new, round(100 * c.points.value, 1)) for c in made} == {
        ("compression.granularity", "word", "step", 30.0), ("ratio", "0.7", "0.9", 10.0),
        ("compression.granularity", "token", "word", 10.0), ("compression.granularity", "token", "step", 40.0),
        ("scorer", "cts", "tokenskip", 5.0), ("sft.tune.learning_rate", "0.001", "0.003", 10.0),
        ("compression.protection", "none", "math", 30.0),
    }  # fmt: skip
    step = next(c for c in made if c.new == "step" and c.old == "word")
    expected = difference_interval([[1.0] * 30 + [0.0] * 70] * 3)
    assert (step.points.low, step.points.high) == pytest.approx((expected.low, expected.high), abs=1e-4)
    usual = "sft.start=base compression.protection=none"
    assert (step.where, step.num_seeds, step.points.n) == (usual, 3, 100)
    ratio = next(c for c in made if c.setting == "ratio")
    assert ratio.where == f"{usual} compression.granularity=word"


def test_command_refuses_a_sweep_whose_fixed_settings_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"new: FIXED in advice\.py lacks"):
        command.write({"new": answers_of(("cts", 0.7, 0.5))}, tmp_path / "advice.csv")
