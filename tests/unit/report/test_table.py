"""Students that learnt from different numbers of traces are not compared without a word."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from cotpress.evaluation.config import EvaluationConfig
from cotpress.evaluation.stage import PREDICTIONS
from cotpress.records import Interval, Prediction, SystemResult
from cotpress.report.table import csv_table, markdown_table, notes, plain_table
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import write_records
from cotpress.tasks.systems import System, measure


def row(system: str, ratio: float, num_training_rows: int | None) -> SystemResult:
    some = Interval(value=0.5, low=0.2, high=0.8, n=9)
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=ratio, accuracy=some, mean_tokens=some, truncation_rate=0,
        seconds_per_sample=1, num_training_rows=num_training_rows,
    )  # fmt: skip


def test_table_says_who_learnt_from_fewer_traces() -> None:
    rows = [row("Base", 1.0, None), row("Original", 1.0, 220), row("cts", 0.5, 220), row("greedy_nll", 0.5, 31)]
    told = "students learnt from different numbers of traces: 220 (Original, cts), 31 (greedy_nll)"
    assert notes(rows) == [told]
    assert told in plain_table(rows)
    assert f"- {told}\n" in markdown_table(rows)
    assert [line["num_training_rows"] for line in csv.DictReader(io.StringIO(csv_table(rows)))] == [
        "",
        "220",
        "220",
        "31",
    ]


def test_ratios_of_one_system_are_told_apart_where_they_differ() -> None:
    rows = [row("gogi", 1.0, 220), row("gogi", 0.5, 100), row("gogi", 0.7, 100), row("cts", 0.5, 220)]
    assert [n for n in notes(rows) if "traces" in n] == [
        "students learnt from different numbers of traces: 220 (gogi at 1, cts), 100 (gogi at 0.5, gogi at 0.7)"
    ]


@pytest.mark.parametrize("number", [220, None])
def test_nothing_is_said_where_all_learnt_from_as_many(number: int | None) -> None:
    assert notes([row("Base", 1.0, None), row("Original", 1.0, number), row("cts", 0.5, number)]) == []


def test_number_is_that_of_the_training_stage(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    answer = Prediction(
        id="p", family="", question="", answer="", system="cts", ratio=0.5, output="", predicted="", correct=True,
        num_tokens=3, num_thinking_tokens=1, finish_reason="stop", latency_s=0.0,
    )  # fmt: skip

    def answered(folder: Path) -> Summary:
        write_records(folder / PREDICTIONS, [answer], Prediction)
        return Summary(num_rows=1)

    answers: Artifact = store.build("evaluate", {}, answered)
    student = store.build("sft", {}, lambda folder: Summary(num_rows=17, dropped={"too long": 3}))
    trained = System(name="cts", ratio=0.5, actual_ratio=0.5, answers=answers, student=student)
    rows, _ = measure([trained, replace(trained, name="Base", student=None)], EvaluationConfig())
    assert [r.num_training_rows for r in rows] == [17, None]
