"""Tables note different numbers of training traces."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotpress.evaluation.config import EvaluationConfig
from cotpress.records import (
    AT_RATIO_ONE,
    BASE,
    PREDICTIONS_FILE,
    Interval,
    Origin,
    Prediction,
    System,
    SystemResult,
    TrainingSet,
)
from cotpress.report.table import csv_table, markdown_table, notes, plain_table
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.grid import WIDTH
from cotpress.store.tables import write_records
from cotpress.tasks.systems import Examinee, measure
from support.judged import table_of


def row(system: str, ratio: float, num_training_rows: int | None) -> SystemResult:
    number = Interval(value=0.5, low=0.2, high=0.8, n=9)
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=ratio, accuracy=number, mean_tokens=number, truncation_rate=0,
        seconds_per_sample=1, num_training_rows=num_training_rows,
    )  # fmt: skip


def test_table_notes_students_of_fewer_traces() -> None:
    rows = [row("Base", 1.0, None), row("Original", 1.0, 220), row("cts", 0.5, 220), row("greedy_nll", 0.5, 31)]
    note = "students learnt from different numbers of traces: 220 (Original, cts), 31 (greedy_nll)"
    table = table_of(*rows)
    assert notes(table) == [note]
    assert note in plain_table(table)
    assert f"- {note}\n" in markdown_table(table)
    assert [line["num_training_rows"] for line in csv.DictReader(io.StringIO(csv_table(table)))] == [
        "",
        "220",
        "220",
        "31",
    ]


def test_student_of_whole_traces_says_how_much_of_them_has_a_loss() -> None:
    masked = replace(row("cts (mask_loss)", 0.5, 220), actual_ratio=1.0, loss_share=0.5)
    table = table_of(row("Original", 1.0, 220), masked)
    assert "trained on the whole thinking, with this share of the loss: cts (mask_loss) at 0.5: 50.0 %" in notes(table)
    assert " 0.5 1.00 " in " ".join(plain_table(table).split())
    assert [line["loss_share"] for line in csv.DictReader(io.StringIO(csv_table(table)))] == ["", "0.5"]


def test_student_of_first_solutions_was_asked_for_no_ratio() -> None:
    system = System(name="first_solution", origin=Origin.scorer)
    own = replace(row("first_solution", 1.0, 220), identity=system, actual_ratio=0.62, generated_ratio=1.2)
    table = table_of(row("Original", 1.0, 220), own)
    assert " own 0.62 1.20^ " in " ".join(plain_table(table).split())
    assert "1 of 1 compressed students write LONGER (^): first_solution at own (x1.20)" in notes(table)


def _given(name: str, ratio: float, origin: Origin, generated: float) -> SystemResult:
    identity = System(name=name, origin=origin, ratio=ratio)
    return replace(row(name, ratio, None), identity=identity, generated_ratio=generated, generated_against=AT_RATIO_ONE)


def test_model_that_is_only_compared_with_itself_has_no_generated_ratio_in_the_table() -> None:
    given, shorter = _given("mine", 1.0, Origin.given, 1.0), _given("BeConcise", 1.0, Origin.baseline, 0.95)
    alone = table_of(given)
    assert plain_table(alone).splitlines()[3].split()[1:4] == ["1", "1.00", "-"]
    assert notes(alone) == ["written is relative to Original, which is not in the table"]
    asked = table_of(shorter, given, _given("mine", 0.5, Origin.given, 0.7))
    lines = plain_table(asked).splitlines()[3:6]
    assert [line.split()[1:4] for line in lines] == [["1", "1.00", "0.95"], ["1", "1.00", "-"], ["0.5", "0.50", "0.70"]]
    assert notes(asked)[-1] == (
        "written is relative to Original, which is not in the table; relative to the same model at ratio 1: BeConcise "
        "at 1, mine at 0.5"
    )
    beside = table_of(replace(row("Original", 1.0, 9), generated_ratio=1.0, generated_against="Original"), given)
    assert plain_table(beside).splitlines()[4].split()[1:4] == ["1", "1.00", "1.00"]
    assert not any(note.startswith("written") for note in notes(beside))


def test_names_are_whole_in_documents_and_tell_rows_apart_on_a_terminal() -> None:
    names = [f"cts compression.granularity={unit} data.limit_of_all_traces=60" for unit in ("step", "word")]
    wide = Interval(value=12345.6, low=11111.1, high=13333.3, n=9)
    table = table_of(*(replace(row(name, 0.5, 9), mean_tokens=wide, accuracy_difference=wide) for name in names))
    assert all(f"| {name} |" in markdown_table(table) for name in names)
    shown = [line for line in plain_table(table).splitlines() if line.startswith("cts")]
    assert max(map(len, shown)) <= WIDTH
    assert ["step" in line for line in shown] == [True, False]
    assert ["word" in line for line in shown] == [False, True]


def trained(system: str, ratio: float, number: int, **traces: Any) -> SystemResult:
    counts = {"num_traces": 200, "num_alone": number, "num_cut": 0, "max_tokens": 4096, "digest": str(number)}
    return replace(row(system, ratio, number), training_set=TrainingSet(**{**counts, **traces}))


def test_note_counts_the_traces_that_all_systems_can_hold() -> None:
    rows = [
        trained("Original", 1.0, 133), trained("cts", 0.5, 133, num_alone=180), trained("cts", 0.7, 133, num_alone=164),
    ]  # fmt: skip
    assert notes(table_of(*rows))[1:] == [
        "trained on the traces that all systems of a run have and can hold within 4096 tokens: 133 of 200 (Original, "
        "cts); sft.overlong=drop would train on 133 (Original), 180 (cts at 0.5), 164 (cts at 0.7)"
    ]


def test_note_counts_the_traces_that_are_left_out_of_one_system() -> None:
    assert notes(table_of(trained("Original", 1.0, 133), trained("cts", 0.7, 164))) == [
        "students learnt from different numbers of traces: 164 (cts), 133 (Original)",
        "trained on the traces of at most 4096 tokens: 133 of 200 (Original), 164 of 200 (cts); sft.overlong=common "
        "would train all on the same",
    ]


def test_note_counts_the_sequences_that_are_cut() -> None:
    rows = [trained("Original", 1.0, 200, num_cut=67), trained("cts", 0.7, 200, num_cut=36)]
    assert notes(table_of(*rows)) == [
        "sequences cut at 4096 tokens, so that they lack the end token: 67 of 200 (Original), 36 of 200 (cts)"
    ]


def test_notes_about_lengths_name_the_rows_of_their_own_rule() -> None:
    rows = [
        trained("Original", 1.0, 133), trained("common", 0.7, 133, num_alone=164),
        trained("drop", 0.7, 164), trained("Original cut", 1.0, 200, num_cut=67), trained("cut", 0.7, 200),
    ]  # fmt: skip
    assert notes(table_of(*rows))[1:] == [
        "sequences cut at 4096 tokens, so that they lack the end token: 67 of 200 (Original cut), 0 of 200 (cut)",
        "trained on the traces that all systems of a run have and can hold within 4096 tokens: 133 of 200 (Original, "
        "common); sft.overlong=drop would train on 133 (Original), 164 (common)",
        "trained on the traces of at most 4096 tokens: 164 of 200 (drop)",
    ]


def test_note_tells_of_runs_that_trained_on_as_many_but_other_traces() -> None:
    rows = [trained("Original", 1.0, 200), trained("cts", 0.7, 200, digest="other")]
    assert notes(table_of(*rows)) == ["students learnt from as many, but different traces"]
    seeds = [System(name=r.system, origin=Origin.scorer, ratio=0.7, seed=n) for n, r in enumerate(rows)]
    assert notes(table_of(*(replace(r, identity=s) for r, s in zip(rows, seeds, strict=True)))) == []


def test_note_names_ratios_if_they_differ_in_traces() -> None:
    rows = [row("gogi", 1.0, 220), row("gogi", 0.5, 100), row("gogi", 0.7, 100), row("cts", 0.5, 220)]
    assert [n for n in notes(table_of(*rows)) if "traces" in n] == [
        "students learnt from different numbers of traces: 220 (gogi at 1, cts), 100 (gogi at 0.5, gogi at 0.7)"
    ]


@pytest.mark.parametrize("number", [220, None])
def test_equal_numbers_of_traces_have_no_note(number: int | None) -> None:
    assert notes(table_of(row("Base", 1.0, None), row("Original", 1.0, number), row("cts", 0.5, number))) == []


def test_table_has_all_and_thinking_tokens() -> None:
    counted = replace(row("cts", 0.5, 220), mean_tokens=Interval(value=120, low=110, high=130, n=9))
    table = table_of(replace(counted, mean_thinking_tokens=81.25), replace(counted, system="old"))
    (first, _, third, fourth) = (plain_table(table).splitlines()[i].split() for i in (0, 1, 3, 4))
    assert "thinking" in first
    assert third[-4:] == ["130]", "81.2", "0.0/-", "1.00"]
    assert fourth[-3:] == ["-", "0.0/-", "1.00"]
    (line, _) = csv.DictReader(io.StringIO(csv_table(table)))
    assert (line["mean_tokens"], line["mean_thinking_tokens"]) == ("120", "81.25")


def test_number_of_traces_is_that_of_the_training_stage(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    answer = Prediction(
        id="p", family="", question="", answer="", system="cts", ratio=0.5, output="", predicted="", correct=True,
        num_tokens=3, num_thinking_tokens=1, finish_reason="stop", latency_s=0.0,
    )  # fmt: skip

    def answered(folder: Path) -> Summary:
        write_records(folder / PREDICTIONS_FILE, [answer], Prediction)
        return Summary(num_rows=1)

    answers: Artifact = store.build("evaluate", {}, answered)
    facts = {"max_tokens": 99, "num_alone": 18, "num_cut": 0, "traces": "0a"}
    student = store.build("sft", {}, lambda folder: Summary(num_rows=17, dropped={"too long": 3}, facts=facts))
    cts = System(name="cts", origin=Origin.scorer, ratio=0.5)
    trained = Examinee(system=cts, actual_ratio=0.5, student=student)
    untuned = Examinee(system=BASE, student=None)
    rows, _ = measure([(trained, answers, None), (untuned, answers, None)], EvaluationConfig())
    assert [(r.system, r.source) for r in rows] == [("cts", cts), ("Base", BASE)]
    assert [r.num_training_rows for r in rows] == [17, None]
    traces = TrainingSet(num_traces=20, num_alone=18, num_cut=0, max_tokens=99, digest="0a")
    assert [r.training_set for r in rows] == [traces, None]
