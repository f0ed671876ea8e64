"""The tracker of one job, made from the config group `tracker`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cotpress.store.artifacts import Artifact
from cotpress.tracking.base import Job, Table, Tracker
from cotpress.tracking.config import TrackerConfig, TrackerKind
from cotpress.tracking.csv_file import CsvTracker, LastValues
from cotpress.tracking.wandb_runs import WandbTracker


@contextmanager
def open_tracker(config: TrackerConfig, job: Job) -> Iterator[Tracker]:
    """The tracker of one job; closed at the end whatever happens inside.

    Raises:
        MissingExtraError: `tracker=wandb` without the package wandb.
    """
    trackers: list[Tracker] = [LastValues(job.run_dir) if config.kind is TrackerKind.none else CsvTracker(job.run_dir)]
    both = _Both(trackers)
    try:
        if config.kind is TrackerKind.wandb:
            trackers.append(WandbTracker(config, job))
        yield both
    except BaseException:
        both.close(failed=True)
        raise
    both.close()


class _Both:
    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        for tracker in self._trackers:
            tracker.log(stage, metrics, step, system=system, once=once)

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        for tracker in self._trackers:
            tracker.artifact(artifact, system=system)

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        for tracker in self._trackers:
            tracker.table(stage, name, make, system=system)

    def close(self, *, failed: bool = False) -> None:
        for tracker in self._trackers:
            tracker.close(failed=failed)
