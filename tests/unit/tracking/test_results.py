from collections.abc import Callable
from typing import Any

from cotpress.records import Interval, Prediction, SystemResult
from cotpress.tracking import Table, track_results
from cotpress.tracking.results import PREDICTION_COLUMNS


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


class Recorder:
    def __init__(self) -> None:
        self.logged: list[tuple[str, dict[str, float], str, str]] = []
        self.tables: dict[str, Table] = {}

    def log(self, stage: str, metrics: Any, step: int | None = None, *, system: str = "", once: str = "") -> None:
        self.logged.append((stage, dict(metrics), system, once))

    def artifact(self, artifact: Any, *, system: str = "") -> None:
        raise AssertionError

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        self.tables[f"{stage}/{name} {system}"] = make(1)

    def close(self, *, failed: bool = False) -> None:
        raise AssertionError


def test_the_last_row_is_the_jobs_own_and_rows_of_one_student_are_told_apart() -> None:
    tracker = Recorder()
    rows = [row("Original", 1.0, 0.8), row("cts", 1.0, 0.7), row("cts", 0.5, 0.6)]
    asked = [("Original", 1.0), ("Original", 1.0), ("cts", 1.0), ("cts", 0.5)]
    track_results(tracker, rows, [prediction(*a) for a in asked])
    assert [(system, metrics["accuracy"]) for _, metrics, system, _ in tracker.logged] == [
        ("Original", 0.8), ("cts ratio 1", 0.7), ("", 0.6),
    ]  # fmt: skip
    assert len({once for *_, once in tracker.logged}) == 3
    metrics = tracker.logged[-1][1]
    assert (metrics["mean_generated_tokens"], metrics["target_ratio"], metrics["num_questions"]) == (20.0, 0.5, 4.0)
    assert "actual_ratio" not in metrics  # not measured
    table = tracker.tables["evaluate/predictions "]
    assert table.columns == PREDICTION_COLUMNS
    assert [dict(zip(table.columns, r, strict=True)) for r in table.rows] == [
        {"question_id": "q1", "sample": 0, "prompt": "1+1?", "generation": "It is 2.", "answer": "2", "gold": "2",
         "correct": True, "tokens": 5, "thinking_tokens": 0, "finish_reason": "stop", "ratio": 0.5},
    ]  # fmt: skip
    assert len(tracker.tables["evaluate/predictions Original"].rows) == 1  # no more than asked for
