"""The tracker of a job, which receives metrics, finished stage outputs and tables, and writes `metrics.csv`."""

import copy
import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cotpress.records import Prediction, SystemResult
from cotpress.store.artifacts import Artifact
from cotpress.tracking.config import TrackerConfig, TrackerKind

if TYPE_CHECKING:
    from cotpress.tracking.wandb_runs import WandbTracker

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


class Tracker:
    """Receiver of metrics, artifacts and tables of one job: writes `metrics.csv`, and passes all on to W&B if given.

    Args:
        run_dir: Folder of `metrics.csv`.
        curves: Append each value at once. Otherwise the last value of each metric is written when the tracker is
            closed, and an older file is replaced.
        wandb: Sender to W&B.
    """

    def __init__(self, run_dir: Path, *, curves: bool = True, wandb: "WandbTracker | None" = None) -> None:
        self._path, self._wandb, self._system = run_dir / METRICS_FILE, wandb, ""
        self._last: dict[tuple[str, str], tuple[int | None, float]] | None = None if curves else {}
        self._file = self._opened() if curves else None

    def of_system(self, system: str) -> "Tracker":
        """The same tracker with another system in place of the job's own, e.g. for the baseline's student."""
        tracker = copy.copy(self)
        tracker._system = system
        return tracker

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Record metrics of a stage; they are on disk when this returns.

        Args:
            stage: Name of the stage.
            metrics: Values by name.
            step: Optimizer step, if there is one.
            system: System that the metrics belong to; empty for the job's own.
            once: Identity of the measurement; a W&B project that already has it does not receive it again.
        """
        system = system or self._system
        self._write(stage_of(stage, system), metrics, step)
        if self._wandb is not None:
            self._wandb.log(stage, metrics, step, system=system, once=once)

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Record the finished output of a stage, computed by this job or by an earlier one."""
        system = system or self._system
        self._write(stage_of(artifact.stage, system), artifact_metrics(artifact), None)
        if self._wandb is not None:
            self._wandb.artifact(artifact, system=system)

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Send a table of a stage to W&B; `make` builds it with at most the given number of rows."""
        if self._wandb is not None:
            self._wandb.table(stage, name, make, system=system or self._system)

    def close(self, *, failed: bool = False) -> None:
        """Finish; nothing is logged afterwards."""
        if self._last is not None:
            self._path.unlink(missing_ok=True)
            last, self._last, self._file = self._last, None, self._opened()
            for (stage, name), (step, value) in last.items():
                self._write(stage, {name: value}, step)
        if self._file is not None:
            self._file.close()
        if self._wandb is not None:
            self._wandb.close(failed=failed)

    def _opened(self) -> TextIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        torn = self._path.exists() and self._path.read_bytes()[-1:] not in (b"", b"\n")
        file = self._path.open("a", encoding="utf-8", newline="")
        if torn:  # an earlier job was killed while it wrote a row
            file.write("\n")
        if file.tell() == 0:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)
        file.flush()
        return file

    def _write(self, stage: str, metrics: Mapping[str, float], step: int | None) -> None:
        if self._last is not None:
            self._last |= {(stage, name): (step, float(value)) for name, value in metrics.items()}
        elif self._file is not None:
            rows = [(stage, "" if step is None else step, name, repr(float(v))) for name, v in metrics.items()]
            csv.writer(self._file, lineterminator="\n").writerows(rows)
            self._file.flush()


@contextmanager
def open_tracker(config: TrackerConfig, job: Job) -> Iterator[Tracker]:
    """Open the tracker of one job; it is closed at the end also after an exception.

    Raises:
        MissingExtraError: `tracker=wandb` without the package wandb.
    """
    wandb = None
    if config.kind is TrackerKind.wandb:
        from cotpress.tracking.wandb_runs import WandbTracker

        wandb = WandbTracker(config, job)
    tracker = Tracker(job.run_dir, curves=config.kind is not TrackerKind.none, wandb=wandb)
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close()


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
