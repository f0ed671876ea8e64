"""Finds runs on disk: finished ones with their results, the others with the reason why they have none."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError, DataError
from cotpress.records import SystemResult
from cotpress.report.published import Lookup, published_numbers
from cotpress.report.results import CONFIG_FILE, FAILURE_FILE, RESULTS_FILE, RunResults, read_failure, read_results
from cotpress.sweep_files import JobState, Sweep, SweepJob, sweeps_below

_BASELINES = ("original", "base", "beconcise", "onlynumbers", "abbrewords", "lc-prompt", "truncation")
"""First words of rows that stand above those of scorers."""
_NO_RUNS_BELOW = frozenset({"artifacts", "fidelity", "wandb", ".hydra", ".git"})
_RUNS, _SWEEPS = "runs", "multirun"
"""Below an output root."""
WITH_RUNS = ("train", "evaluate")
"""Entry scripts whose jobs leave run directories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run."""

    path: Path
    results: RunResults


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A run directory without usable results, or a job of a sweep that left none, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """All runs below a folder, sorted by path."""

    folder: Path
    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rows that may stand in one table: one student, one benchmark, one level of confidence."""

    model: str
    benchmark: str
    confidence: float
    rows: tuple[SystemResult, ...]
    runs: tuple[Run, ...] = ()

    @property
    def title(self) -> str:
        """`model on benchmark`."""
        return f"{self.model} on {self.benchmark}"

    @property
    def published(self) -> Lookup:
        """What papers print for a row."""
        return published_numbers(self.model, self.benchmark)


def collect(folder: Path) -> Collection:
    """Every run at or below `folder`, from what lies on disk, and every job of a sweep that has none to show.

    Sweeps are looked for below `folder` as well, and beside it if it is the folder `runs` of an output root.

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
    """The runs of the jobs of one sweep, in their order, and its jobs that have none to show."""
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
    """Run directories of the jobs that have finished."""
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


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """The rows of all runs, one comparison per student, benchmark and level of confidence.

    A system that several runs share (Original, say) stands there once. Where runs differ in more than scorer and
    ratio, the rows of a run say in what: its seed, or settings such as `condition=question`.
    """
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        key = (run.results.model, run.results.benchmark, run.results.confidence)
        groups.setdefault(key, []).append(run)
    return [
        Comparison(
            model=model, benchmark=benchmark, confidence=confidence, rows=tuple(_merged(members)), runs=tuple(members)
        )
        for (model, benchmark, confidence), members in groups.items()
    ]


def _merged(runs: Sequence[Run]) -> list[SystemResult]:
    several_seeds = len({run.results.seed for run in runs}) > 1
    rows: dict[object, SystemResult] = {}
    settings: dict[object, dict[str, str]] = {}
    for run in runs:
        for row in run.results.rows:
            shown = replace(row, system=f"{row.system} seed={run.results.seed}") if several_seeds else row
            same = _same(row, run.results.seed)
            rows.setdefault(same, shown)
            settings.setdefault(same, _flat(run.results.essentials))
    names = _told_apart(rows, settings)
    named = [replace(row, system=names[same]) for same, row in rows.items()]
    order = list(dict.fromkeys(row.system for row in named))
    return sorted(named, key=lambda r: (not _is_baseline(r), order.index(r.system), -r.target_ratio))


def _told_apart(rows: Mapping[object, SystemResult], settings: Mapping[object, Mapping[str, str]]) -> dict[object, str]:
    """Names under which no two rows look alike, if any setting tells them apart."""
    names = {same: row.system for same, row in rows.items()}
    for system in {row.system for row in rows.values()}:
        members = [same for same, row in rows.items() if row.system == system]
        if len({rows[same].target_ratio for same in members}) == len(members):
            continue
        keys = dict.fromkeys(key for same in members for key in settings[same])
        for key in (k for k in keys if len({settings[same].get(k) for same in members}) > 1):
            for same in members:
                if (value := settings[same].get(key)) is not None:
                    names[same] += f" {key.rpartition('.')[2]}={value}"
    return names


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys; lists are values. The ratio has a column of its own."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key != "ratio":
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _same(row: SystemResult, seed: int) -> object:
    """What makes two rows one: the same artifacts, or, where none are named, the same numbers from the same seed."""
    if row.artifacts:
        return row.system, row.target_ratio, tuple(sorted(row.artifacts.items()))
    return row.system, row.target_ratio, seed, row.accuracy, row.mean_tokens


def _is_baseline(row: SystemResult) -> bool:
    return row.system.lower().split(" ")[0] in _BASELINES


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
