"""Tracking of a running job: always `metrics.csv` in the run directory, also Weights & Biases with `tracker=wandb`.

A failure of the W&B service is logged once and never stops the job.

Names are `stage/name` in W&B, and the columns `stage` and `name` of the csv. A stage of another system than the job's
own, e.g. of Original, is `stage_system` in the csv (`sft_original`) and belongs to another W&B run.

    reference/ sft/     loss  lr  by optimizer step, from 1; sft/val/accuracy  sft/val/tokens by the same steps
    every stage         seconds  num_rows  dropped/REASON  and the numbers among its facts
    compress/           num_tokens  num_kept_tokens  actual_ratio  num_exceeded
    evaluate/           see `result_metrics`: accuracy  mean_generated_tokens  actual_ratio ...
"""

import copy
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cotpress.records import Prediction, SystemResult
from cotpress.store.artifacts import Artifact
from cotpress.store.paths import safe_name
from cotpress.tracking.config import TrackerConfig, TrackerKind

if TYPE_CHECKING:
    from cotpress.tracking.wandb_runs import WandbTracker

METRICS_FILE = "metrics.csv"
COLUMNS = ("stage", "step", "name", "value")
STAGE = "evaluate"
PREDICTION_COLUMNS = {
    "question_id": "id", "sample": "sample", "prompt": "question", "generation": "output", "answer": "predicted",
    "gold": "answer", "correct": "correct", "tokens": "num_tokens", "thinking_tokens": "num_thinking_tokens",
    "finish_reason": "finish_reason", "ratio": "ratio",
}  # fmt: skip
"""Columns of the table of predictions, and the fields of `Prediction` that they show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Description of the tracked job.

    Attributes:
        run_dir: Folder of `metrics.csv`.
        name: Display name.
        system: The job's own system, e.g. the scorer; see `Tracker.of_system` for others.
        model: Name of the model.
        data: Name of the training data; empty without.
        benchmark: Name of the benchmark; empty without.
        ratio: Target ratio; None if the job has none.
        sweep: Name shared by the jobs of one sweep; None for a single job.
        config: The whole resolved configuration.
        output_root: Parent folder of the notes about data that was sent.
    """

    run_dir: Path
    name: str
    system: str
    output_root: Path
    model: str = ""
    data: str = ""
    benchmark: str = ""
    ratio: float | None = None
    sweep: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


class Table(NamedTuple):
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
        self._last: dict[tuple[str, str], Sequence[object]] | None = None if curves else {}
        if curves:
            self._begin()

    def of_system(self, system: str) -> "Tracker":
        """The same tracker for what belongs to another system, e.g. the baseline's student; empty for the job's own."""
        tracker = copy.copy(self)
        tracker._system = system
        return tracker

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, once: str = "") -> None:
        """Record metrics of a stage by name, at an optimizer step if there is one; on disk when this returns.

        A W&B project that already has the measurement with the identity `once` does not receive it again.
        """
        self._write(stage, metrics, step)
        if self._wandb is not None:
            self._wandb.log(stage, metrics, step, system=self._system, once=once)

    def artifact(self, artifact: Artifact) -> None:
        """Record the finished output of a stage, computed by this job or by an earlier one."""
        self._write(artifact.stage, artifact_metrics(artifact))
        if self._wandb is not None:
            self._wandb.artifact(artifact, system=self._system)

    def table(self, stage: str, name: str, make: Callable[[int], Table]) -> None:
        """Send a table of a stage to W&B; `make` builds it with at most the given number of rows."""
        if self._wandb is not None:
            self._wandb.table(stage, name, make, system=self._system)

    def close(self, *, failed: bool = False) -> None:
        """Finish; nothing is logged afterwards."""
        if self._last is not None:
            self._path.unlink(missing_ok=True)
            self._begin()
            self._append(self._last.values())
        if self._wandb is not None:
            self._wandb.close(failed=failed)

    def _begin(self) -> None:
        """Write the header of a new file, or end the row that an earlier job wrote when it was killed."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        written = self._path.read_bytes() if self._path.exists() else b""
        if not written.endswith(b"\n"):
            self._append([() if written else COLUMNS])

    def _append(self, rows: Iterable[Sequence[object]]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _write(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        stage, number = stage_of(stage, self._system), "" if step is None else step
        rows = {(stage, name): (stage, number, name, repr(float(value))) for name, value in metrics.items()}
        if self._last is None:
            self._append(rows.values())
        else:
            self._last |= rows


def silent_tracker() -> Tracker:
    """A tracker that writes nothing, as it is never closed."""
    return Tracker(Path(), curves=False)


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


def stage_of(stage: str, system: str) -> str:
    """Name of a stage of a system: `sft` of the job's own, `sft_original` of Original.

    A label with other characters than those of our own labels is not replaced by a name that a second one may have.
    """
    if not system:
        return stage
    label = system if re.fullmatch(r"[A-Za-z0-9._ ()=,-]+", system) else safe_name(system, unsafe="[^A-Za-z0-9.]")
    return f"{stage}_{re.sub(r'[^a-z0-9.]+', '_', label.lower()).strip('_')}"


def artifact_metrics(artifact: Artifact) -> dict[str, float]:
    """Seconds, rows, drops and the numbers among the facts of a stage's output."""
    metrics: dict[str, float] = {"seconds": artifact.seconds, "num_rows": float(artifact.manifest["num_rows"])}
    metrics |= {f"dropped/{reason}": float(n) for reason, n in artifact.manifest["dropped"].items()}
    numbers = {n: v for n, v in artifact.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return metrics | {name: float(value) for name, value in numbers.items()}


def track_results(tracker: Tracker, rows: Sequence[SystemResult], predictions: Sequence[Prediction]) -> None:
    """Log all rows of the results table (at least one, in table order) as `evaluate/...` of their systems, and their
    predictions; the last row is the job's own system.
    """
    for i, row in enumerate(rows):
        repeated = any(later.system == row.system for later in rows[i + 1 :])  # the last row keeps the plain name
        name = f"{row.system} ratio {row.target_ratio:g}" if repeated else row.system
        identity = f"{row.artifacts.get(STAGE, '')} {name} {row.target_ratio:g}"
        own = [p for p in predictions if (p.system, p.ratio) == (row.system, row.target_ratio)]
        of_row = tracker.of_system("" if i == len(rows) - 1 else name)
        of_row.log(STAGE, result_metrics(row), once=identity)
        of_row.table(STAGE, "predictions", partial(_prediction_table, own))


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
        "mean_thinking_tokens", "mean_answer_tokens", "loss_share",
    )  # fmt: skip
    values |= {name: getattr(row, name) for name in names}
    if row.num_samples > 1:
        values |= {f"pass_at_{k}": interval.value for k, interval in enumerate(row.pass_at_k, start=1)}
    return {name: float(value) for name, value in values.items() if value is not None}


def _prediction_table(predictions: Sequence[Prediction], limit: int) -> Table:
    """One row per generated solution, of the first `limit`."""
    rows = [[getattr(p, name) for name in PREDICTION_COLUMNS.values()] for p in predictions[:limit]]
    return Table(columns=tuple(PREDICTION_COLUMNS), rows=rows)
