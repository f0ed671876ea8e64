"""Files of a multirun beside its runs: the plan of the sweep, and in each job's folder a note with the job's state.

    output_root/multirun/<date>/<time>/
        sweep.json           all jobs of the sweep, in order; written before the first one starts
        0/ 1/ 2/ ...         job.json: state, run directory, seconds, error;  job.log: output of the job

The progress display, the table at the end and `report.py` read these files, so that no state is lost with a process.
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from cotpress.store.artifacts import plain, write_text_atomic
from cotpress.store.paths import is_unreadable, unreadable
from cotpress.store.redaction import masked
from cotpress.store.results import checked

log = logging.getLogger(__name__)

R = TypeVar("R")

PLAN_FILE = "sweep.json"
JOB_FILE = "job.json"
JOB_LOG = "job.log"


class JobState(Enum):
    """State of a job."""

    running = "running"
    finished = "finished"
    found = "found"  # finished by an earlier command, so that nothing was computed
    failed = "failed"
    interrupted = "interrupted"  # stopped with its sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNote:
    """State of a job, written by the job."""

    overrides: tuple[str, ...]  # its part of the command line
    state: JobState
    run_dir: Path | None = None  # its run directory or other output; None until it is known
    error: str | None = None  # reason of a failure, in one or a few lines
    for_user: bool = False  # the reason is one that the user can act on, no defect and no kill
    started_at: float = 0.0  # unix time in seconds, by the clock of the job's machine; for people
    seconds: float | None = None  # wall time; None while it runs
    metric: float | None = None  # value for a sweeper to optimise
    pid: int | None = None  # id of the working process, on the machine where it runs

    @property
    def succeeded(self) -> bool:
        """True if there are results."""
        return self.state in (JobState.finished, JobState.found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepJob:
    """One job of a sweep."""

    number: int  # position in the sweep, from 0; also the name of its folder
    folder: Path  # its folder; does not exist before the job has started, and neither does its note
    overrides: tuple[str, ...]
    note: JobNote | None

    @property
    def log(self) -> Path:
        """File with the output of the job."""
        return self.folder / JOB_LOG


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All jobs of one multirun."""

    folder: Path
    jobs: tuple[SweepJob, ...]  # in order; without a plan only the started ones
    entry: str  # entry script, e.g. `train`; empty if there is no plan
    planned: bool  # false if the sweeper chooses its jobs one by one, so that their number is unknown

    @property
    def failed(self) -> int:
        """Number of jobs that failed."""
        return sum(job.note is not None and job.note.state is JobState.failed for job in self.jobs)

    @property
    def succeeded(self) -> int:
        """Number of jobs that have results."""
        return sum(job.note is not None and job.note.succeeded for job in self.jobs)

    @property
    def hopeless(self) -> bool:
        """True if the first two jobs failed for the same reason that the user can act on, and no job has succeeded."""
        notes = [job.note for job in self.jobs[:2]]
        reasons = [n.error for n in notes if n is not None and n.state is JobState.failed and n.for_user]
        return len(reasons) == 2 and len(set(reasons)) == 1 and not self.succeeded

    def label(self, job: SweepJob) -> str:
        """Overrides that distinguish the job from the others; all of them for a single job."""
        shared = set(job.overrides).intersection(*(other.overrides for other in self.jobs))
        own = [o for o in job.overrides if o not in shared]
        return " ".join(own or job.overrides) or "defaults"


def write_plan(sweep_dir: Path, entry: str, jobs: Sequence[Sequence[str]] | None, name: str | None = None) -> None:
    """Write `sweep.json` of an entry script (e.g. `train`), before the first job of the sweep starts.

    `jobs` holds the overrides of every job, or is None if the sweeper chooses them one by one.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    content = masked({"entry": entry, "name": name, "jobs": plain(jobs)})
    write_text_atomic(sweep_dir / PLAN_FILE, json.dumps(content, indent=1) + "\n")


def sweep_name(job_folder: Path) -> str | None:
    """Name of the sweep of a job, or the sweep's start time if it has no name; None for a single command."""
    plan = _read_plan(job_folder.parent)
    if plan is None:
        return None
    return plan.name or f"{job_folder.parents[1].name} {job_folder.parent.name}"  # .../<date>/<time>/<job>


def write_note(folder: Path, note: JobNote) -> None:
    """Write a job's note into its folder, with relative paths, so that the output folder can be moved."""
    run_dir = None if note.run_dir is None else Path(os.path.relpath(note.run_dir, folder))
    content = masked(plain(replace(note, run_dir=run_dir)))
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / JOB_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_note(folder: Path) -> JobNote | None:
    """The note of a job; None if it is missing, cannot be read or is no note, of which the latter two are logged."""

    def made(content: dict[str, Any]) -> JobNote:
        run_dir = content["run_dir"]
        content["overrides"] = _listed(content["overrides"])
        content["state"] = JobState(content["state"])
        content["run_dir"] = None if run_dir is None else Path(os.path.normpath(folder / run_dir))
        return JobNote(**content)

    return _read(folder / JOB_FILE, made)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Content of `sweep.json`."""

    entry: str
    jobs: tuple[tuple[str, ...], ...] | None
    name: str | None = None


def _read_plan(sweep_dir: Path) -> _Plan | None:
    """The plan of a sweep; None if it is missing, cannot be read or is no plan, of which the latter two are logged."""

    def made(content: dict[str, Any]) -> _Plan:
        jobs = content["jobs"]
        content["jobs"] = None if jobs is None else tuple(map(_listed, _listed(jobs)))
        return _Plan(**content)

    return _read(sweep_dir / PLAN_FILE, made)


def _read(path: Path, made: Callable[[dict[str, Any]], R]) -> R | None:
    """Read a JSON file; None if it is missing, cannot be read or has another content, which is logged."""
    try:
        return checked(made(json.loads(path.read_bytes())))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        _warn(path, error)
        return None


def _listed(value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"got {value!r:.60}, allowed: a list")
    return tuple(value)


@lru_cache  # a sweep is read several times a second
def _warn_once(path: Path, reason: str) -> None:
    log.warning("'%s' is not used: %s. Fix: run the same command again", path, reason)


def _warn(path: Path, error: Exception) -> None:
    _warn_once(path, str(unreadable(path, error)) if is_unreadable(error) else f"{type(error).__name__}: {error}")


def read_sweep(sweep_dir: Path) -> Sweep:
    """Read the current state of a sweep; without any job if the folder is not that of a sweep."""
    notes = {int(p.name): note for p in sweep_dir.glob("*") if p.name.isdecimal() and (note := read_note(p))}
    plan = _read_plan(sweep_dir)
    planned = None if plan is None else plan.jobs
    overrides = dict(enumerate(planned or ())) | {n: note.overrides for n, note in notes.items()}
    jobs = [
        SweepJob(number=n, folder=sweep_dir / str(n), overrides=overrides[n], note=notes.get(n))
        for n in sorted(overrides)
    ]
    entry = "" if plan is None else plan.entry
    return Sweep(folder=sweep_dir, jobs=tuple(jobs), entry=entry, planned=planned is not None)


def sweeps_below(folder: Path) -> list[Sweep]:
    """All sweeps at or below a folder, the oldest first."""
    return [read_sweep(plan.parent) for plan in sorted(folder.rglob(PLAN_FILE))]
