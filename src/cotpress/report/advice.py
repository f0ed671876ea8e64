"""Students that are less accurate than Original, and changes that were measured to help.

A change is named only if its measured interval lies above zero: first a better student of the user's own, with the same
model, data and benchmark, then changes of `advice.csv`, which `python -m experiments.testbed.advice` writes from the
sweeps over the built-in data.
"""

import csv
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError, DataError
from cotpress.records import PREDICTIONS_FILE, RESULTS_FILE, Interval, Origin, Prediction, SystemResult
from cotpress.report.comparison import OF_TABLES, Comparison, compare, flat
from cotpress.report.results import Run, read_results
from cotpress.report.table import difference
from cotpress.statistics import paired_accuracy_difference, simultaneous
from cotpress.store.tables import read_records
from cotpress.terminal import one_line

ADVICE_FILE = "advice.csv"
GUIDE = "docs/evaluation.md#students-that-lose-accuracy"
_SAME = ("data", "benchmark", "evaluation")
"""Groups of settings in which two runs must agree to be compared question by question."""
_MOST_READ = 10
"""Runs whose answers are read to find a better student, the most accurate ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A measured change of one setting.

    Attributes:
        model, data, benchmark: Names in the run's settings.
        scorer: Scorer before the change.
        ratio: Requested ratio before the change.
        where: Other settings of the measured students, `KEY=VALUE` separated by spaces.
        setting: Key of the setting that changes, `ratio` or `scorer` among them.
        old, new: Its values.
        points: Difference in accuracy in percentage points, with a 95 % interval.
        num_seeds: Seeds of each student.
        source: The table that it comes from.
    """

    model: str
    data: str
    benchmark: str
    scorer: str
    ratio: float
    where: str
    setting: str
    old: str
    new: str
    points: Interval
    num_seeds: int
    source: str

    def applies_to(self, settings: Mapping[str, str]) -> bool:
        """Return True if the change starts from the settings of a student, given by dotted key."""
        own = {
            "model": self.model, "data.name": self.data, "benchmark": self.benchmark, "scorer": self.scorer,
            "ratio": f"{self.ratio:g}", self.setting: self.old,
            **dict(pair.split("=", 1) for pair in self.where.split()),
        }  # fmt: skip
        return all(settings.get(key) == value for key, value in own.items())


COLUMNS = (
    "model", "data", "benchmark", "scorer", "ratio", "where", "setting", "old", "new", "points", "points_low",
    "points_high", "questions", "seeds", "source",
)  # fmt: skip
"""Columns of `advice.csv`."""


@functools.cache
def measured_changes() -> tuple[Change, ...]:
    """Return the changes of `advice.csv`."""
    return tuple(read_changes(files("cotpress.report").joinpath(ADVICE_FILE).read_text(encoding="utf-8")))


def read_changes(text: str) -> list[Change]:
    """Return the changes of a table with `COLUMNS`."""
    changes = []
    for row in csv.DictReader(text.splitlines()):
        points = Interval(
            value=float(row["points"]) / 100, low=float(row["points_low"]) / 100, high=float(row["points_high"]) / 100,
            n=int(row["questions"]),
        )  # fmt: skip
        texts = {key: row[key] for key in ("model", "data", "benchmark", "scorer", "where", "setting", "old", "new")}
        changes.append(
            Change(**texts, ratio=float(row["ratio"]), points=points, num_seeds=int(row["seeds"]), source=row["source"])
        )
    return changes


def is_less_accurate(row: SystemResult) -> bool:
    """Return True for a student of a scorer whose difference from Original has an interval below zero."""
    gap = row.accuracy_difference
    return row.source.origin is Origin.scorer and gap is not None and gap.high < 0


def advice(comparison: Comparison, others: Sequence[Run] = (), changes: Sequence[Change] | None = None) -> list[str]:
    """Return sentences about the students that are less accurate than Original beyond the interval.

    Args:
        comparison: The table.
        others: Runs beside those of the table that may hold a better student.
        changes: Measured changes; None for those of the package.
    """
    worse = [row for row in comparison.rows if is_less_accurate(row)]
    if not worse:
        return []
    if len(worse) == 1:
        runs = [*comparison.runs, *others]
        lines = _of_student(comparison, worse[0], runs, measured_changes() if changes is None else changes)
    else:
        lines = _of_students(comparison, worse)
    return [one_line(line) for line in lines]


def _of_student(comparison: Comparison, row: SystemResult, runs: Sequence[Run], changes: Sequence[Change]) -> list[str]:
    gap = f"{row.system} at {row.asked} is less accurate than Original: {difference(row.accuracy_difference)} points"
    source = _source(comparison, row)
    if source is not None:
        run, own = source
        better = [text for text in (better_student(run, own, runs), *_measured(_settings(run, own), changes)) if text]
        if better:
            return [gap, *(f"better: {text}" for text in better)]
    return [f"{gap}; what to change: {GUIDE}"]


def _source(comparison: Comparison, row: SystemResult) -> tuple[Run, SystemResult] | None:
    """Return the run that a row is from and the row under its name there."""

    def numbers(of: SystemResult) -> tuple[object, ...]:
        return of.artifacts, of.target_ratio, of.accuracy, of.mean_tokens

    pairs = ((run, own) for run in comparison.runs for own in run.results.rows)
    return next(((run, own) for run, own in pairs if numbers(own) == numbers(row)), None)


def _of_students(comparison: Comparison, worse: Sequence[SystemResult]) -> list[str]:
    def named(rows: Iterable[SystemResult]) -> str:
        shown = ((r, r.accuracy_difference) for r in rows)
        return ", ".join(f"{r.system} at {r.asked} ({100 * d.value:+.1f})" for r, d in shown if d is not None)

    students = [r for r in comparison.rows if r.source.origin is Origin.scorer and r.accuracy_difference is not None]
    kept = sorted((r for r in students if r not in worse), key=lambda r: r.mean_tokens.value)
    end = f"not so: {named(kept)}" if kept else f"what to change: {GUIDE}"
    return [f"less accurate than Original beyond the interval, by points: {named(worse)}; {end}"]


def _settings(run: Run, row: SystemResult) -> dict[str, str]:
    """Return the settings of a student by dotted key, as texts."""
    results = run.results
    own = {"model": results.model, "benchmark": results.benchmark, "scorer": row.source.name, "ratio": row.asked}
    return flat(results.settings) | own


def _measured(settings: Mapping[str, str], changes: Sequence[Change]) -> list[str]:
    """Return the measured change with the highest low end of each setting, if that lies above zero."""
    best: dict[str, Change] = {}
    for change in changes:
        if change.points.low > 0 and change.applies_to(settings):
            known = best.get(change.setting)
            if known is None or change.points.low > known.points.low:
                best[change.setting] = change
    return [
        f"{c.setting}={c.new} in place of {c.old}: {difference(c.points)} points, measured on "
        f"{c.num_seeds} seed{'' if c.num_seeds == 1 else 's'} ({c.source})"
        for c in sorted(best.values(), key=lambda c: -c.points.low)
    ]


def better_student(run: Run, row: SystemResult, runs: Sequence[Run]) -> str:
    """Return the student of some runs that beats this one by most beyond the interval; empty without any.

    The runs must agree in model, data, benchmark and evaluation. Differences are paired by question, and all of them
    hold together at the level of the run.
    """
    candidates = [
        (other, theirs)
        for other in runs
        if _compared_to(other) == _compared_to(run)
        for theirs in other.results.rows
        if theirs.source.origin is Origin.scorer and theirs.artifacts != row.artifacts
    ]
    level = simultaneous(run.results.confidence, len(candidates))
    above = [(other, theirs) for other, theirs in candidates if theirs.accuracy.value > row.accuracy.value]
    above.sort(key=lambda candidate: -candidate[1].accuracy.value)
    gains = [(_gain(other, theirs, run, row, level), other, theirs) for other, theirs in above[:_MOST_READ]]
    sure = [(gain, other, theirs) for gain, other, theirs in gains if gain is not None and gain.low > 0]
    if not sure:
        return ""
    gain, other, theirs = max(sure, key=lambda found: found[0].low)
    (named,) = compare([run, other])
    at = [r.artifacts == theirs.artifacts and r.target_ratio == theirs.target_ratio for r in named.rows]
    label = named.rows[at.index(True)].system
    tokens = f"{theirs.mean_tokens.value:.0f} generated tokens"
    return f"your {label} at {theirs.asked}, {difference(gain)} points with {tokens} ({other.path})"


def _gain(other: Run, theirs: SystemResult, run: Run, row: SystemResult, level: float) -> Interval | None:
    """Return the accuracy of another student minus that of this one; None if they share no question."""
    try:
        return paired_accuracy_difference(_answers(other, theirs), _answers(run, row), level)
    except (ArtifactError, DataError):
        return None


def runs_beside(run_dir: Path) -> list[Run]:
    """Return the other finished runs of the same folder; those that cannot be read are left out."""
    runs = []
    for path in sorted(run_dir.parent.glob(f"*/{RESULTS_FILE}")):
        try:
            if path.parent.resolve() != run_dir.resolve():
                runs.append(Run(path=path.parent, results=read_results(path.parent)))
        except ArtifactError:  # a report names it; this line can do without it
            continue
    return runs


def _compared_to(run: Run) -> dict[str, Any]:
    settings = flat({key: run.results.settings.get(key, {}) for key in _SAME})
    kept = {key: value for key, value in settings.items() if key not in OF_TABLES}
    table = {name: getattr(run.results, name) for name in ("model", "benchmark", "confidence")}
    return {**kept, **table}


def _answers(run: Run, row: SystemResult) -> list[Prediction]:
    path = run.path / PREDICTIONS_FILE
    predictions = read_records(path, Prediction) if path.exists() else []
    return [p for p in predictions if (p.system, p.ratio) == (row.system, row.target_ratio)]
