import csv
from collections.abc import Callable
from typing import Any

import pytest

from cotpress.records import Interval, Prediction, SystemResult
from cotpress.store.artifacts import Artifact
from cotpress.tracking import PREDICTION_COLUMNS, Job, Table, Tracker, open_tracker, stage_of, track_results
from cotpress.tracking.config import TrackerConfig, TrackerKind
from support.metrics import read_metrics

CSV = TrackerConfig(kind=TrackerKind.csv)
MakeJob = Callable[..., Job]


def test_logged_metrics_are_on_disk_at_once(job: MakeJob) -> None:
    with open_tracker(CSV, job()) as tracker:
        tracker.log("sft", {"loss": 1.5, "lr": 1e-4}, step=3)
        tracker.log("evaluate", {"accuracy": 0.5})
        assert read_metrics(job().run_dir) == [
            ("sft", 3, "loss", 1.5), ("sft", 3, "lr", 1e-4), ("evaluate", None, "accuracy", 0.5),
        ]  # fmt: skip


def test_kind_none_writes_the_last_values_at_the_end(job: MakeJob) -> None:
    for attempt in range(2):  # a repeated job replaces the file
        with open_tracker(TrackerConfig(kind=TrackerKind.none), job()) as tracker:
            for step in range(5):
                tracker.log("sft", {"loss": 5.0 - step}, step=step)
            tracker.log("evaluate", {"accuracy": 0.5})
            if attempt == 0:
                assert read_metrics(job().run_dir) == []
    assert read_metrics(job().run_dir) == [("sft", 4, "loss", 1.0), ("evaluate", None, "accuracy", 0.5)]


@pytest.mark.parametrize("kind", [TrackerKind.csv, TrackerKind.none])
def test_stage_of_another_system_is_named_after_the_system(
    job: MakeJob, kind: TrackerKind, artifact: Callable[..., Artifact]
) -> None:
    with open_tracker(TrackerConfig(kind=kind), job()) as tracker:
        tracker.log("sft", {"loss": 1.0}, step=1)
        tracker.of_system("Original").log("sft", {"loss": 2.0}, step=1)
        tracker.of_system("LC-Prompt (Base)").log("evaluate", {"accuracy": 0.1})
        tracker.of_system("Original").artifact(artifact("compress", actual_ratio=0.5, name="cts"))
    rows = read_metrics(job().run_dir)
    assert rows[:3] == [
        ("sft", 1, "loss", 1.0), ("sft_original", 1, "loss", 2.0), ("evaluate_lc_prompt_base", None, "accuracy", 0.1),
    ]  # fmt: skip
    numbers = {name: value for stage, _, name, value in rows if stage == "compress_original"}
    assert numbers.keys() == {"seconds", "num_rows", "dropped/no answer", "actual_ratio"}
    assert (numbers["num_rows"], numbers["dropped/no answer"], numbers["actual_ratio"]) == (3, 2, 0.5)


def test_resumed_run_keeps_one_header_and_skips_a_torn_row(job: MakeJob) -> None:
    path = job().run_dir / "metrics.csv"
    with open_tracker(CSV, job()) as tracker:
        tracker.log("sft", {"loss": 1.0}, step=1)
    with path.open("a") as handle:
        handle.write("sft,2,lo")
    with open_tracker(CSV, job()) as tracker:
        tracker.log("sft", {"loss": 0.5}, step=2)
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == ["stage", "step", "name", "value"]
    assert sum(row[0] == "stage" for row in rows) == 1
    assert read_metrics(job().run_dir) == [("sft", 1, "loss", 1.0), ("sft", 2, "loss", 0.5)]


def test_names_with_commas_and_infinite_values_are_read_back(job: MakeJob) -> None:
    with open_tracker(CSV, job()) as tracker:
        tracker.log("evaluate", {"tokens, mean": float("inf")})
    assert read_metrics(job().run_dir) == [("evaluate", None, "tokens, mean", float("inf"))]


def row(system: str, ratio: float, accuracy: float) -> SystemResult:
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=None, accuracy=Interval(value=accuracy, low=0, high=1, n=4),
        mean_tokens=Interval(value=20.0, low=18, high=22, n=4), truncation_rate=0.25, seconds_per_sample=0.1,
        artifacts={"evaluate": f"evaluate/{system}"},
    )  # fmt: skip


def prediction(system: str, ratio: float) -> Prediction:
    return Prediction(
        id="q1", family="", question="1+1?", answer="2", system=system, ratio=ratio, output="It is 2.", predicted="2",
        correct=True, num_tokens=5, num_thinking_tokens=0, finish_reason="stop", latency_s=0.1,
    )  # fmt: skip


class Recorder(Tracker):
    def __init__(self) -> None:
        self._system = ""
        self.logged: list[tuple[str, dict[str, float], str, str]] = []
        self.tables: dict[str, Table] = {}

    def log(self, stage: str, metrics: Any, step: int | None = None, *, once: str = "") -> None:
        self.logged.append((stage, dict(metrics), self._system, once))

    def table(self, stage: str, name: str, make: Callable[[int], Table]) -> None:
        self.tables[f"{stage}/{name} {self._system}"] = make(1)


def test_last_row_is_the_own_system_and_repeated_systems_are_named_with_their_ratio() -> None:
    tracker = Recorder()
    rows = [row("Original", 1.0, 0.8), row("cts", 1.0, 0.7), row("cts", 0.5, 0.6)]
    pairs = [("Original", 1.0), ("Original", 1.0), ("cts", 1.0), ("cts", 0.5)]
    track_results(tracker, rows, [prediction(*pair) for pair in pairs])
    assert [(system, metrics["accuracy"]) for _, metrics, system, _ in tracker.logged] == [
        ("Original", 0.8), ("cts ratio 1", 0.7), ("", 0.6),
    ]  # fmt: skip
    assert len({once for *_, once in tracker.logged}) == 3
    metrics = tracker.logged[-1][1]
    assert (metrics["mean_generated_tokens"], metrics["target_ratio"], metrics["num_questions"]) == (20.0, 0.5, 4.0)
    assert "actual_ratio" not in metrics  # not measured
    table = tracker.tables["evaluate/predictions "]
    assert table.columns == tuple(PREDICTION_COLUMNS)
    assert [dict(zip(table.columns, r, strict=True)) for r in table.rows] == [
        {"question_id": "q1", "sample": 0, "prompt": "1+1?", "generation": "It is 2.", "answer": "2", "gold": "2",
         "correct": True, "tokens": 5, "thinking_tokens": 0, "finish_reason": "stop", "ratio": 0.5},
    ]  # fmt: skip
    assert len(tracker.tables["evaluate/predictions Original"].rows) == 1  # the requested limit


def test_stages_of_systems_with_different_labels_have_different_names() -> None:
    labels = ["模型", "型模", "a/b", "a:b", "a|b", "ä", "ö", "\ud800", "🙂", "*", "[*]", "a\nb"]
    assert len({stage_of("sft", label) for label in labels}) == len(labels)
    usual = ["", "Original", "cts (mixed)", "step_entropy", "cts condition=question", "LC-Prompt", "cts 0.5"]
    assert [stage_of("sft", label) for label in usual] == [
        "sft", "sft_original", "sft_cts_mixed", "sft_step_entropy", "sft_cts_condition_question", "sft_lc_prompt",
        "sft_cts_0.5",
    ]  # fmt: skip
