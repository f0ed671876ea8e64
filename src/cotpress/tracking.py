"""Where metrics go while a job runs: always `metrics.csv` in the run directory, Weights & Biases if asked for.

The csv is the record; a tracker service that fails is reported once and never stops the work.
"""

import csv
import logging
import netrc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlparse

from cotpress.errors import MissingExtraError
from cotpress.tracking_config import TrackerConfig, TrackerKind

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"
COLUMNS = ("stage", "step", "name", "value")
_Mode = Literal["online", "offline", "disabled", "shared"]
_SECRET = re.compile(r"(?:^|_)(?:api_?key|secret|password|token|credentials?)$", re.IGNORECASE)


class Tracker(Protocol):
    """Takes the metrics of one job."""

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics of a stage, at an optimizer step where there is one."""

    def close(self) -> None:
        """Finish; nothing is logged after it."""


class CsvTracker:
    """Appends rows `stage, step, name, value` to `metrics.csv`; every row is on disk when `log` returns."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._handle = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._handle, lineterminator="\n")
        if torn:  # an earlier job was killed inside a row
            self._handle.write("\n")
        if self._handle.tell() == 0:
            self._writer.writerow(COLUMNS)
        self._handle.flush()

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one row per metric."""
        rows = [(stage, "" if step is None else step, name, repr(float(value))) for name, value in metrics.items()]
        self._writer.writerows(rows)
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


class WandbTracker:
    """One W&B run per job; metrics are named `stage/name` over the stage's own steps.

    Args:
        config: Project and entity.
        run_dir: W&B keeps its files in `wandb/` below it.
        run_name: Shown name of the run.
        group: Shared by the jobs of one sweep.
        tags: Labels of the run, e.g. scorer and model.
        resolved_config: Hyperparameters; values under names such as `api_key` are masked.

    Raises:
        MissingExtraError: The package wandb is not installed.
    """

    def __init__(
        self,
        config: TrackerConfig,
        run_dir: Path,
        *,
        run_name: str,
        group: str | None,
        tags: Sequence[str],
        resolved_config: Mapping[str, Any],
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("tracker=wandb", "wandb", "pip install wandb, or tracker=csv") from error
        run_dir.mkdir(parents=True, exist_ok=True)
        self._run: Any = None
        self._stages: set[str] = set()
        with self._guarded():
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                dir=str(run_dir),
                name=run_name,
                group=group,
                job_type="train",
                tags=list(tags),
                config=_masked(resolved_config),
                mode=_mode(),
                # A run that an earlier job of this process left open must not swallow this job's metrics.
                reinit="finish_previous",
                settings=wandb.Settings(silent=True, console="off", disable_git=True, init_timeout=60),
            )

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the metrics; the W&B step axis of a stage is `stage/step`."""
        if self._run is None:
            return
        with self._guarded():
            if stage not in self._stages:
                self._run.define_metric(f"{stage}/step")
                self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
                self._stages.add(stage)
            row = {f"{stage}/{name}": float(value) for name, value in metrics.items()}
            self._run.log(row if step is None else {**row, f"{stage}/step": step})

    def close(self) -> None:
        """Finish the run: without it the next job of a multirun would log into this one."""
        run, self._run = self._run, None
        if run is not None:
            with self._guarded():
                run.finish()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the service, the network, the account: none of them is worth a training run
            self._run = None
            log.warning("W&B failed (%s); metrics go on to %s only", _without_key(str(error)), METRICS_FILE)


class Renamed:
    """Gives the metrics of one stage another name, e.g. to tell the baseline's student from the scorer's."""

    def __init__(self, tracker: Tracker, stage: str, name: str) -> None:
        self._tracker, self._stage, self._name = tracker, stage, name

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass the metrics on, under the other name if they are of that stage."""
        self._tracker.log(self._name if stage == self._stage else stage, metrics, step)

    def close(self) -> None:
        """Finish the tracker behind."""
        self._tracker.close()


class _Both:
    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        for tracker in self._trackers:
            tracker.log(stage, metrics, step)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


@contextmanager
def open_tracker(
    config: TrackerConfig,
    run_dir: Path,
    *,
    run_name: str,
    group: str | None,
    tags: Sequence[str],
    resolved_config: Mapping[str, Any],
) -> Iterator[Tracker]:
    """The tracker of one job; closed at the end whatever happens inside.

    `metrics.csv` is written for every kind: `none` and `csv` write nothing else.

    Raises:
        MissingExtraError: `tracker=wandb` without the package wandb.
    """
    trackers: list[Tracker] = [CsvTracker(run_dir)]
    try:
        if config.kind is TrackerKind.wandb:
            extra = WandbTracker(
                config, run_dir, run_name=run_name, group=group, tags=tags, resolved_config=resolved_config
            )
            trackers.append(extra)
        yield _Both(trackers)
    finally:
        _Both(trackers).close()


def read_metrics(run_dir: Path) -> list[tuple[str, int | None, str, float]]:
    """Rows `(stage, step, name, value)` of a run's metrics.csv; rows cut off by a kill are left out."""
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.reader(handle):
            value = _number(row[3]) if len(row) == len(COLUMNS) else None
            if value is not None:
                rows.append((row[0], int(row[1]) if row[1] else None, row[2], value))
    return rows


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _mode() -> _Mode:
    """`WANDB_MODE` if it is set (W&B checks it), else online for someone who is logged in, else offline."""
    chosen = os.environ.get("WANDB_MODE")
    if chosen:
        return cast("_Mode", chosen)
    return "online" if os.environ.get("WANDB_API_KEY") or _has_login() else "offline"


def _has_login() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): "***" if _SECRET.search(str(k)) and v else _masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(v) for v in value]
    return value


def _without_key(text: str) -> str:
    key = os.environ.get("WANDB_API_KEY", "")
    return text.replace(key, "***") if key else text
