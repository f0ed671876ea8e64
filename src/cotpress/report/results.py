"""Finished and unfinished runs on disk: their `results.json` and `failure.json`, and the artifacts that these name.

Tables, figures and pages are made from these files alone.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError, DataError, UnreadableError
from cotpress.invocation import as_typed
from cotpress.records import (
    CONFIG_FILE,
    FAILURE_FILE,
    MIXED,
    RANKING_FILE,
    RESULTS_FILE,
    SHARES_FILE,
    STUDENTS_FILE,
    TRACES_FILE,
    TRAIN_LOG_FILE,
    UNTIL_FILES,
    BudgetAccuracy,
    Interval,
    Origin,
    System,
    SystemResult,
    TrainingSet,
)
from cotpress.store.artifacts import Artifact, ArtifactStore, write_text_atomic
from cotpress.store.paths import checked_key
from cotpress.store.redaction import without_secrets
from cotpress.store.results import read_interval, read_results_file, write_results_file
from cotpress.store.sweeps import JobState, Sweep, SweepJob, sweeps_below

log = logging.getLogger(__name__)

SCHEMA_VERSION = 6
_READABLE = (1, 2, 3, 4, 5, 6)
"""Version 1 measured less, and what it lacks is None; versions before 3 have no `settings`, those before 4 name systems
by their labels alone, those before 5 have no numbers of rows, those before 6 neither training sets nor
`mean_cot_tokens`."""
_OF_SYSTEMS = ("score", "decide", "compress", "sft", "evaluate")
INTERVALS = ("accuracy", "mean_tokens", "accuracy_difference", "mean_reference_tokens", "mean_cot_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One stage of a run.

    Attributes:
        label: Stage and system, e.g. `sft (Original)`.
        artifact: Key of its artifact, `stage/fingerprint`.
        seconds: Wall time of computing the artifact, in this run or an earlier one.
        fresh: True if this run computed it.
        system: The system that it belongs to; None for what all systems share.
        num_rows: Rows of the artifact; None if unknown.
        dropped: Number of rows that the stage lost, by reason.
        facts: Further numbers about the rows, of the stages that read data.
    """

    label: str
    artifact: str
    seconds: float
    fresh: bool
    system: System | None = None
    num_rows: int | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.artifact.partition("/")[0]

    @property
    def title(self) -> str:
        """Label with the ratio, which distinguishes the students of one scorer: `sft (cts 0.5)`."""
        if self.system is None or self.stage == "evaluate":  # whose labels contain the ratio
            return self.label
        return f"{self.stage} ({self.system.title})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """Results of one run.

    Attributes:
        confidence: Level of the intervals in `rows`, in (0, 1).
        essentials: Most important settings (JSON values); the whole configuration is in config.yaml.
        settings: All settings that may distinguish its rows from those of another run (JSON values).
    """

    name: str
    model: str
    benchmark: str
    seed: int
    rows: tuple[SystemResult, ...]
    confidence: float = 0.95
    stages: tuple[StageRecord, ...] = ()
    essentials: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_results(run_dir: Path, results: RunResults) -> Path:
    """Write `results.json` into a run directory and remove the note of an earlier failure there."""
    path = write_results_file(run_dir, SCHEMA_VERSION, results)
    (run_dir / FAILURE_FILE).unlink(missing_ok=True)
    return path


def read_results(run_dir: Path) -> RunResults:
    """Read the results of a finished run.

    Raises:
        ArtifactError: There is no `results.json`, or it is damaged or of another version.
    """
    return read_results_file(run_dir, _READABLE, _results)


def write_failure(run_dir: Path, message: str) -> None:
    """Note in a run directory why its run stopped, for a report over many runs."""
    run_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"error": without_secrets(message)}, ensure_ascii=False)
    write_text_atomic(run_dir / FAILURE_FILE, text + "\n")


def read_failure(run_dir: Path) -> str | None:
    """Return why the run stopped; None if nothing was noted."""
    try:
        return str(json.loads((run_dir / FAILURE_FILE).read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{FAILURE_FILE} cannot be read"


def _results(content: dict[str, Any]) -> RunResults:
    rows = tuple(_row(row) for row in content.pop("rows"))
    stages = tuple(read_stage(stage, rows) for stage in content.pop("stages"))
    return RunResults(rows=rows, stages=stages, **content)


def _row(content: dict[str, Any]) -> SystemResult:
    read: dict[str, Any] = {name: read_interval(content.get(name)) for name in INTERVALS}
    read["accuracy_at_budgets"] = tuple(
        BudgetAccuracy(
            budget=b["budget"], accuracy=_interval(b["accuracy"]), difference=read_interval(b.get("difference"))
        )
        for b in content.get("accuracy_at_budgets", ())
    )
    read["pass_at_k"] = tuple(map(_interval, content.get("pass_at_k", ())))
    trained = content.get("training_set")
    read["training_set"] = None if trained is None else TrainingSet(**trained)
    return SystemResult(**{**content, **read, "identity": read_system(content.get("identity"))})


def _interval(content: Mapping[str, Any]) -> Interval:
    if (interval := read_interval(content)) is None:
        raise ValueError("an interval is null")
    return interval


def read_system(content: Mapping[str, Any] | None) -> System | None:
    """Return a system from its JSON values; None for None."""
    if content is None:
        return None
    settings = tuple((key, value) for key, value in content["settings"])
    return System(**{**content, "origin": Origin(content["origin"]), "settings": settings})


def read_stage(content: dict[str, Any], rows: Sequence[SystemResult] = ()) -> StageRecord:
    """Return a stage from its JSON values; `rows` are those of the same run."""
    system = read_system(content.get("system")) or _system_in_label(content["label"], rows)
    return StageRecord(**{**content, "system": system})


def _system_in_label(label_of_stage: str, rows: Sequence[SystemResult]) -> System | None:
    """Return the system that the label of an earlier release names in brackets, with the ratio of its only row."""
    stage, _, rest = label_of_stage.partition(" (")
    if stage not in _OF_SYSTEMS or not rest:
        return None
    label, _, ratio = rest.removesuffix(")").partition(", ratio ")
    system = System.from_label(label)
    if ratio:
        return replace(system, ratio=float(ratio))
    ratios = {row.target_ratio for row in rows if row.system == label and row.target_ratio < 1}
    known = len(ratios) == 1 and stage != "score" and system.variant != MIXED
    return replace(system, ratio=ratios.pop()) if known else system


def output_root_of_run(run_dir: Path, key: str) -> Path | None:
    """Return the nearest folder at or above a run directory whose `artifacts/` has an artifact; None without any."""
    folders = (run_dir, *run_dir.parents, *run_dir.absolute().parents)
    return next((folder for folder in folders if (folder / "artifacts" / checked_key(key)).is_dir()), None)


_READ_FILES = (TRACES_FILE, RANKING_FILE, SHARES_FILE, TRAIN_LOG_FILE)
"""Files of artifacts that pages read, and whose checksums are therefore verified; weights beside them are not."""


class Sources:
    """Artifacts by their keys in `results.json`; each is opened once for all runs."""

    def __init__(self) -> None:
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
        root = output_root_of_run(run_dir, key)
        if root is None:
            return None
        if (root, key) not in self._artifacts:
            try:
                artifact = self._artifacts[root, key] = ArtifactStore(root).open(key)
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

    runs: tuple[Run, ...]
    unfinished: tuple[Unfinished, ...]


def collect(folder: Path, further: Sequence[Path] = ()) -> Collection:
    """Collect every run at or below `folder` or in `further`, and every job of a sweep that has no run to show.

    Sweeps are searched below `folder` as well, and beside it if it is the folder `runs` of an output root.

    Raises:
        DataError: The folder does not exist or holds neither a run directory nor a sweep.
    """
    if not folder.is_dir():
        raise DataError(f"runs: '{folder}' is no folder. Fix: runs=DIR, the folder that holds the run directories")
    own = _sweeps_with_runs(folder)
    beside = folder.resolve().parent / _SWEEPS if folder.resolve().name == _RUNS else None
    others = [] if beside is None else [sweep for sweep in sweeps_below(beside) if sweep.entry in WITH_RUNS]
    directories = run_directories(folder)
    if not directories and not any(sweep.jobs for sweep in [*own, *others]):
        raise DataError(f"runs: no run directory (one with {CONFIG_FILE} or {RESULTS_FILE}) at or below '{folder}'")
    return _collected([*directories, *further], [*own, *others])


def run_directories(folder: Path) -> list[Path]:
    """Return the run directories at or below a folder, and those of the sweeps there."""
    own = [directory for sweep in _sweeps_with_runs(folder) for directory in _directories(sweep)]
    return list({path.resolve(): path for path in [*_run_dirs(folder), *own]}.values())


def _sweeps_with_runs(folder: Path) -> list[Sweep]:
    return [sweep for sweep in sweeps_below(folder) if sweep.entry in WITH_RUNS]


def collect_sweep(sweep: Sweep) -> Collection:
    """Collect the runs of the jobs of one sweep, in their order, and its jobs that have no run to show."""
    return _collected(_directories(sweep), [sweep])


def _collected(directories: Sequence[Path], sweeps: Sequence[Sweep]) -> Collection:
    runs: dict[Path, Run] = {}
    unfinished: dict[object, Unfinished] = {}
    for path in directories:
        try:
            runs.setdefault(path.resolve(), Run(path=path, results=read_results(path)))
        except ArtifactError as error:
            failure = read_failure(path)
            reason = _why_unfinished(path) if failure is None else f"failed: {failure}"
            if (path / RESULTS_FILE).exists():
                reason = str(error) if isinstance(error, UnreadableError) else f"damaged: {error}"
            unfinished.setdefault(path.resolve(), Unfinished(path=path, reason=reason))
    for sweep, job in [(s, job) for s in sweeps for job in s.jobs]:
        run_dir = None if job.note is None or job.note.run_dir is None else job.note.run_dir.resolve()
        unfinished.pop(job.overrides, None)  # an older sweep with the same job
        if (job.note is not None and job.note.succeeded) or run_dir in runs:
            continue
        unfinished.pop(run_dir, None)
        reason = f"{sweep.label(job)}: {_why_missing(job)}"
        unfinished[job.overrides] = Unfinished(path=job.folder, reason=reason)
    return Collection(runs=tuple(runs.values()), unfinished=tuple(unfinished.values()))


def _why_unfinished(run_dir: Path) -> str:
    if (run_dir / STUDENTS_FILE).exists():
        return f"its students are trained, but have not answered: {as_typed('evaluate')} runs={run_dir}"
    if any(run_dir.glob(UNTIL_FILES)):
        return "ended early, as until=STAGE says; the same command without it goes on"
    return "not finished: still running or interrupted"


def _directories(sweep: Sweep) -> list[Path]:
    """Return the run directories of the finished jobs."""
    notes = [job.note for job in sweep.jobs if job.note is not None]
    return [note.run_dir for note in notes if note.succeeded and note.run_dir is not None]


def _why_missing(job: SweepJob) -> str:
    if job.note is None:
        return "not run yet"
    if job.note.state is JobState.failed:
        return f"failed: {job.note.error}"
    return "interrupted" if job.note.state is JobState.interrupted else "still running or interrupted"


def _run_dirs(folder: Path) -> Iterator[Path]:
    for directory, below, files in os.walk(folder):
        if {CONFIG_FILE, RESULTS_FILE, FAILURE_FILE} & set(files):
            below.clear()  # a run holds no other run
            yield Path(directory)
        else:
            below[:] = sorted(name for name in below if name not in _NO_RUNS_BELOW)
