"""Runs on disk, finished ones with their results and the others with the reason, and the artifacts of a run."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotpress.errors import ArtifactError, DataError
from cotpress.records import CONFIG_FILE, FAILURE_FILE, RANKING_FILE, RESULTS_FILE, TRACES_FILE, TRAIN_LOG_FILE
from cotpress.report.results import RunResults, read_failure, read_results
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.store.paths import checked_key
from cotpress.store.sweeps import JobState, Sweep, SweepJob, sweeps_below

log = logging.getLogger(__name__)

_READ_FILES = (TRACES_FILE, RANKING_FILE, TRAIN_LOG_FILE)
"""Files of artifacts that pages read, and whose checksums are therefore verified; weights beside them are not."""


class Sources:
    """Artifacts by their keys in `results.json`; each store is opened once for all runs below it."""

    def __init__(self) -> None:
        self._stores: dict[Path, ArtifactStore] = {}
        self._artifacts: dict[tuple[Path, str], Artifact | None] = {}

    def find(self, run_dir: Path, key: str) -> Artifact | None:
        """Return the artifact `stage/fingerprint` of a run, from the nearest `artifacts/` at or above its directory.

        None if it is missing or damaged; damage is logged.
        """
        try:
            checked_key(key)
        except ArtifactError as error:
            log.warning("report: %s: %s; the page does without it", run_dir, error)
            return None
        for root in [run_dir.absolute(), *run_dir.absolute().parents]:
            if (root / "artifacts" / key).is_dir():
                return self._open(root, key)
        return None

    def _open(self, root: Path, key: str) -> Artifact | None:
        if (root, key) not in self._artifacts:
            store = self._stores.setdefault(root, ArtifactStore(root))
            try:
                artifact = self._artifacts[root, key] = store.open(key)
                if artifact is not None:
                    for name in set(_READ_FILES) & set(artifact.manifest["files"]):
                        artifact.file(name)
            except ArtifactError as error:
                log.warning("report: %s; the page does without it", error)
                self._artifacts[root, key] = None
        return self._artifacts[root, key]


_NO_RUNS_BELOW = frozenset({"artifacts", "fidelity", "wandb", ".hydra", ".git"})
_RUNS, _SWEEPS = "runs", "multirun"
"""Folders of an output root."""
WITH_RUNS = ("train", "evaluate")
"""Entry scripts whose jobs write run directories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run."""

    path: Path
    results: RunResults


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A run directory without usable results, or a job of a sweep without a run directory, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """All runs below a folder, sorted by path."""

    folder: Path
    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...]


def collect(folder: Path) -> Collection:
    """Collect every run at or below `folder`, and every job of a sweep that has no run to show.

    Sweeps are searched below `folder` as well, and beside it if it is the folder `runs` of an output root.

    Raises:
        DataError: The folder does not exist or holds neither a run directory nor a sweep.
    """
    if not folder.is_dir():
        raise DataError(f"runs: '{folder}' is no folder. Fix: runs=DIR, the folder that holds the run directories")
    own = [sweep for sweep in sweeps_below(folder) if sweep.entry in WITH_RUNS]
    beside = folder.resolve().parent / _SWEEPS if folder.resolve().name == _RUNS else None
    others = [] if beside is None else [sweep for sweep in sweeps_below(beside) if sweep.entry in WITH_RUNS]
    directories = [*_run_dirs(folder), *(d for sweep in own for d in _directories(sweep))]
    if not directories and not any(sweep.jobs for sweep in [*own, *others]):
        raise DataError(f"runs: no run directory (one with {CONFIG_FILE} or {RESULTS_FILE}) at or below '{folder}'")
    return _collected(folder, directories, [*own, *others])


def collect_sweep(sweep: Sweep) -> Collection:
    """Collect the runs of the jobs of one sweep, in their order, and its jobs that have no run to show."""
    return _collected(sweep.folder, _directories(sweep), [sweep])


def _collected(folder: Path, directories: Sequence[Path], sweeps: Sequence[Sweep]) -> Collection:
    runs: dict[Path, Run] = {}
    unfinished: dict[object, Unfinished] = {}
    for path in directories:
        try:
            runs.setdefault(path.resolve(), Run(path=path, results=read_results(path)))
        except ArtifactError as error:
            reason = f"damaged: {error}" if (path / RESULTS_FILE).exists() else _why_unfinished(path)
            unfinished.setdefault(path.resolve(), Unfinished(path=path, reason=reason))
    for sweep in sweeps:
        for job in sweep.jobs:
            run_dir = None if job.note is None or job.note.run_dir is None else job.note.run_dir.resolve()
            unfinished.pop(job.overrides, None)  # an older sweep with the same job
            if (job.note is not None and job.note.succeeded) or run_dir in runs:
                continue
            unfinished.pop(run_dir, None)
            reason = f"{sweep.label(job)}: {_why_missing(job)}"
            unfinished[job.overrides] = Unfinished(path=job.folder, reason=reason)
    return Collection(folder=folder, runs=tuple(runs.values()), unfinished=tuple(unfinished.values()))


def _directories(sweep: Sweep) -> list[Path]:
    """Return the run directories of the finished jobs."""
    notes = [job.note for job in sweep.jobs if job.note is not None]
    return [note.run_dir for note in notes if note.succeeded and note.run_dir is not None]


def _why_missing(job: SweepJob) -> str:
    if job.note is None:
        return "not run yet"
    match job.note.state:
        case JobState.failed:
            return f"failed: {job.note.error}"
        case JobState.interrupted:
            return "interrupted"
        case _:
            return "still running or interrupted"


def _run_dirs(folder: Path) -> Iterator[Path]:
    for directory, below, files in os.walk(folder):
        if {CONFIG_FILE, RESULTS_FILE, FAILURE_FILE} & set(files):
            below.clear()  # a run holds no other run
            yield Path(directory)
        else:
            below[:] = sorted(name for name in below if name not in _NO_RUNS_BELOW)


def _why_unfinished(path: Path) -> str:
    failure = read_failure(path)
    return "not finished: still running or interrupted" if failure is None else f"failed: {failure}"
