"""Finds runs on disk: finished ones with their results, the others with the reason why they have none."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cotpress.errors import ArtifactError, DataError
from cotpress.records import SystemResult
from cotpress.report.published import Lookup, published_numbers
from cotpress.report.results import CONFIG_FILE, FAILURE_FILE, RESULTS_FILE, RunResults, read_failure, read_results

_BASELINES = ("original", "base", "beconcise", "onlynumbers", "abbrewords", "lc-prompt", "truncation")
"""First words of rows that stand above those of scorers."""
_NO_RUNS_BELOW = frozenset({"artifacts", "fidelity", "wandb", ".hydra", ".git"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run."""

    path: Path
    results: RunResults


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A run directory without usable results, and why."""

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
    """Every run at or below `folder`, from what lies on disk.

    Raises:
        DataError: The folder does not exist or holds no run directory at all.
    """
    if not folder.is_dir():
        raise DataError(f"runs: '{folder}' is no folder. Fix: runs=DIR, the folder that holds the run directories")
    runs: list[Run] = []
    unfinished: list[Unfinished] = []
    for path in _run_dirs(folder):
        try:
            runs.append(Run(path=path, results=read_results(path)))
        except ArtifactError as error:
            reason = f"damaged: {error}" if (path / RESULTS_FILE).exists() else _why_unfinished(path)
            unfinished.append(Unfinished(path=path, reason=reason))
    if not runs and not unfinished:
        raise DataError(f"runs: no run directory (one with {CONFIG_FILE} or {RESULTS_FILE}) at or below '{folder}'")
    return Collection(folder=folder, runs=tuple(runs), unfinished=tuple(unfinished))


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """The rows of all runs, one comparison per student, benchmark and level of confidence.

    A system that several runs share (Original, say) stands there once. Where seeds differ between runs, the rows of a
    run say its seed.
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
    for run in runs:
        for row in run.results.rows:
            shown = replace(row, system=f"{row.system} seed={run.results.seed}") if several_seeds else row
            rows.setdefault(_same(row, run.results.seed), shown)
    order = list(dict.fromkeys(row.system for row in rows.values()))
    return sorted(rows.values(), key=lambda r: (not _is_baseline(r), order.index(r.system), -r.target_ratio))


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
