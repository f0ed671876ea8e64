"""Trackers: receive metrics, finished stage outputs and tables from a running job, and write them to `metrics.csv`."""

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cotpress.records import Prediction, SystemResult
from cotpress.store.artifacts import Artifact
from cotpress.tracking.config import TrackerConfig, TrackerKind

METRICS_FILE = "metrics.csv"
COLUMNS = ("stage", "step", "name", "value")
STAGE = "evaluate"
PREDICTION_COLUMNS = (
    "question_id", "sample", "prompt", "generation", "answer", "gold", "correct", "tokens", "thinking_tokens",
    "finish_reason", "ratio",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Description of the tracked job.

    Attributes:
        run_dir: Folder of `metrics.csv`.
        name: Display name.
        system: The job's own system, e.g. the scorer. Other systems (Original, Base) are named in each call.
        tags: Further labels: model, data or benchmark.
        ratio: Target ratio; None if the job has none.
        sweep: Name shared by the jobs of one sweep; None for a single job.
        config: The whole resolved configuration.
        output_root: Parent folder of the notes about data that was sent.
    """

    run_dir: Path
    name: str
    system: str
    output_root: Path
    tags: Sequence[str] = ()
    ratio: float | None = None
    sweep: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of equal length, values of plain types."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Tracker(Protocol):
    """Interface of all trackers. `system` is empty for the job's own system."""

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Record metrics of a stage.

        Args:
            stage: Name of the stage.
            metrics: Values by name.
            step: Optimizer step, if there is one.
            system: System that the metrics belong to.
            once: Identity of the measurement; a service that already has it does not receive it again.
        """

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Record the finished output of a stage, computed by this job or by an earlier one."""

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Record a table of a stage; `make` builds it with at most the given number of rows, only if it is used."""

    def close(self, *, failed: bool = False) -> None:
        """Finish; nothing is logged afterwards."""


class Trackers:
    """Several trackers behind one; `system` replaces an empty system in all calls, e.g. for the baseline's student."""

    def __init__(self, trackers: Sequence[Tracker], system: str = "") -> None:
        self._trackers, self._system = trackers, system

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Pass the metrics on."""
        for tracker in self._trackers:
            tracker.log(stage, metrics, step, system=system or self._system, once=once)

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Pass the artifact on."""
        for tracker in self._trackers:
            tracker.artifact(artifact, system=system or self._system)

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Pass the table on."""
        for tracker in self._trackers:
            tracker.table(stage, name, make, system=system or self._system)

    def close(self, *, failed: bool = False) -> None:
        """Close all trackers."""
        for tracker in self._trackers:
            tracker.close(failed=failed)


class CsvTracker:
    """Appends to `metrics.csv`; each row is on disk when `log` returns."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._handle = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._handle, lineterminator="\n")
        if torn:  # an earlier job was killed while it wrote a row
            self._handle.write("\n")
        if self._handle.tell() == 0:
            self._writer.writerow(COLUMNS)
        self._handle.flush()

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Write one row per metric."""
        start = (stage_of(stage, system), "" if step is None else step)
        self._writer.writerows([(*start, name, repr(float(value))) for name, value in metrics.items()])
        self._handle.flush()

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Write the numbers of the artifact."""
        self.log(artifact.stage, artifact_metrics(artifact), system=system)

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Do nothing: tables are shown from the artifacts and from predictions.parquet."""

    def close(self, *, failed: bool = False) -> None:
        """Close the file."""
        self._handle.close()


class LastValues(CsvTracker):
    """Writes `metrics.csv` when it is closed, with the last value of each metric; an older file is replaced."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._last: dict[tuple[str, str], tuple[int | None, float]] = {}

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Store the values."""
        self._last |= {(stage_of(stage, system), name): (step, float(value)) for name, value in metrics.items()}

    def close(self, *, failed: bool = False) -> None:
        """Write the file."""
        (self._run_dir / METRICS_FILE).unlink(missing_ok=True)
        tracker = CsvTracker(self._run_dir)
        for (stage, name), (step, value) in self._last.items():
            tracker.log(stage, {name: value}, step)
        tracker.close()


@contextmanager
def open_tracker(config: TrackerConfig, job: Job) -> Iterator[Tracker]:
    """Open the tracker of one job; it is closed at the end also after an exception.

    Raises:
        MissingExtraError: `tracker=wandb` without the package wandb.
    """
    trackers: list[Tracker] = [LastValues(job.run_dir) if config.kind is TrackerKind.none else CsvTracker(job.run_dir)]
    together = Trackers(trackers)
    try:
        if config.kind is TrackerKind.wandb:
            from cotpress.tracking.wandb_runs import WandbTracker

            trackers.append(WandbTracker(config, job))
        yield together
    except BaseException:
        together.close(failed=True)
        raise
    together.close()


def read_metrics(run_dir: Path) -> list[tuple[str, int | None, str, float]]:
    """Rows `(stage, step, name, value)` of a run's metrics.csv; incomplete rows of a killed job are left out."""
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.reader(handle):
            try:
                stage, step, name, value = row
                rows.append((stage, int(step) if step else None, name, float(value)))
            except ValueError:  # the header, or a row that was cut off
                continue
    return rows


def stage_of(stage: str, system: str) -> str:
    """Name of a stage of a system: `sft` of the job's own, `sft_original` of Original."""
    return f"{stage}_{re.sub(r'[^a-z0-9.]+', '_', system.lower()).strip('_')}" if system else stage


def artifact_metrics(artifact: Artifact) -> dict[str, float]:
    """Seconds, rows, drops and the numbers among the facts of a stage's output."""
    metrics: dict[str, float] = {"seconds": artifact.seconds, "num_rows": float(artifact.manifest["num_rows"])}
    metrics |= {f"dropped/{reason}": float(n) for reason, n in artifact.manifest["dropped"].items()}
    numbers = {n: v for n, v in artifact.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return metrics | {name: float(value) for name, value in numbers.items()}


def track_results(tracker: Tracker, rows: Sequence[SystemResult], predictions: Sequence[Prediction]) -> None:
    """Log all rows of the results table with their predictions; the last row is the job's own system.

    Args:
        tracker: Receives `evaluate/...` of each system.
        rows: At least one, in table order.
        predictions: Predictions of all rows.
    """
    for i, row in enumerate(rows):
        repeated = any(later.system == row.system for later in rows[i + 1 :])  # the last row keeps the plain name
        name = f"{row.system} ratio {row.target_ratio:g}" if repeated else row.system
        system = "" if i == len(rows) - 1 else name
        identity = f"{row.artifacts.get(STAGE, '')} {name} {row.target_ratio:g}"
        own = [p for p in predictions if (p.system, p.ratio) == (row.system, row.target_ratio)]
        tracker.log(STAGE, result_metrics(row), system=system, once=identity)
        tracker.table(STAGE, "predictions", partial(_prediction_table, own), system=system)


def result_metrics(row: SystemResult) -> dict[str, float]:
    """Numbers of a row under stable names; what was not measured is left out."""
    values: dict[str, Any] = {
        "accuracy": row.accuracy.value,
        "accuracy_low": row.accuracy.low,
        "accuracy_high": row.accuracy.high,
        "num_questions": row.accuracy.n,
        "mean_generated_tokens": row.mean_tokens.value,
        "mean_generated_tokens_low": row.mean_tokens.low,
        "mean_generated_tokens_high": row.mean_tokens.high,
        "accuracy_difference": None if row.accuracy_difference is None else row.accuracy_difference.value,
    }
    names = (
        "target_ratio", "actual_ratio", "generated_ratio", "generated_thinking_ratio", "truncation_rate",
        "seconds_per_sample", "training_reduction", "inference_reduction", "loop_rate", "unclosed_rate",
        "mean_thinking_tokens", "mean_answer_tokens",
    )  # fmt: skip
    values |= {name: getattr(row, name) for name in names}
    if row.num_samples > 1:
        values |= {f"pass_at_{k}": interval.value for k, interval in enumerate(row.pass_at_k, start=1)}
    return {name: float(value) for name, value in values.items() if value is not None}


def _prediction_table(predictions: Sequence[Prediction], limit: int) -> Table:
    """One row per generated solution, of the first `limit`."""
    rows = [
        (
            p.id, p.sample, p.question, p.output, p.predicted, p.answer, p.correct, p.num_tokens, p.num_thinking_tokens,
            p.finish_reason, p.ratio,
        )
        for p in predictions[:limit]
    ]  # fmt: skip
    return Table(columns=PREDICTION_COLUMNS, rows=rows)
