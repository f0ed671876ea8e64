"""Which rows stand in one table, and what each is called there.

The judged answers behind the rows of a comparison, read from the predictions of its runs.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cotpress.errors import ArtifactError
from cotpress.records import Prediction, SystemResult
from cotpress.report.collect import Run
from cotpress.report.published import Lookup, published_numbers
from cotpress.report.results import PREDICTIONS_FILE
from cotpress.report.row_names import Shown, is_baseline, told_apart
from cotpress.store.tables import read_records

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rows that may stand in one table: one student, one benchmark, one level of confidence.

    Attributes:
        rows: Every row once, under names that tell them apart; with several seeds, the seed is part of the name.
        runs: The runs that the rows are from.
        names: What each row of `runs` is called without its seed, by `identity`.
    """

    model: str
    benchmark: str
    confidence: float
    rows: tuple[SystemResult, ...]
    runs: tuple[Run, ...] = ()
    names: Mapping[object, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """`model on benchmark`."""
        return f"{self.model} on {self.benchmark}"

    @property
    def published(self) -> Lookup:
        """What papers print for a row."""
        return published_numbers(self.model, self.benchmark)


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """The rows of all runs, one comparison per student, benchmark and level of confidence.

    A system that several runs share (Original, say) stands there once. Where runs differ in more than scorer and
    ratio, the rows of a run say in what: settings such as `condition=question` or `data.num_traces=60`, or the seed.
    """
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        key = (run.results.model, run.results.benchmark, run.results.confidence)
        groups.setdefault(key, []).append(run)
    return [_comparison(*key, members) for key, members in groups.items()]


def identity(row: SystemResult, seed: int) -> object:
    """What makes two rows one: the same artifacts, or, where none are named, the same numbers from the same seed."""
    if row.artifacts:
        return row.system, row.target_ratio, tuple(sorted(row.artifacts.items()))
    return row.system, row.target_ratio, seed, row.accuracy, row.mean_tokens


def _comparison(model: str, benchmark: str, confidence: float, runs: Sequence[Run]) -> Comparison:
    seen: dict[object, Shown] = {}
    for run in runs:
        for row in run.results.rows:
            same, here = identity(row, run.results.seed), Shown.in_run(row, run.results)
            seen[same] = seen[same].also(here) if same in seen else here
    several_seeds = len({run.results.seed for run in runs}) > 1
    names = told_apart(seen)
    named = []
    for same, found in seen.items():
        seed = f" seed={min(found.seeds)}" if several_seeds and len(found.seeds) == 1 else ""
        named.append(replace(found.row, system=names[same] + seed))
    order = list(dict.fromkeys(row.system for row in named))
    rows = sorted(named, key=lambda r: (not is_baseline(r.system), order.index(r.system), -r.target_ratio))
    return Comparison(
        model=model, benchmark=benchmark, confidence=confidence, rows=tuple(rows), runs=tuple(runs), names=names
    )


Key = tuple[str, float]
"""A system, named without its seed, and its asked ratio."""

Answers = Mapping[Key, Mapping[int, Sequence[Prediction]]]
"""Answers of each system by the seed that its student was trained with."""


def answers_of(comparison: Comparison) -> Answers:
    """The answers of every system of one table, in the order of the runs.

    What several runs share is counted once, and a system has the answers of one student per seed. Runs whose
    predictions are gone or cannot be read add nothing.
    """
    found: dict[Key, dict[int, Sequence[Prediction]]] = {}
    seen: set[object] = set()
    unread: list[str] = []
    for run in comparison.runs:
        try:
            here = _by_system(run.path / PREDICTIONS_FILE)
        except ArtifactError as error:  # of another release, or damaged: the table itself does without
            unread.append(str(error))
            continue
        for row in run.results.rows:
            key, same = (row.system, row.target_ratio), identity(row, run.results.seed)
            if key in here and same not in seen:  # Original is one system, however many runs show it
                seen.add(same)
                by_seed = found.setdefault((comparison.names.get(same, row.system), row.target_ratio), {})
                by_seed.setdefault(run.results.seed, here[key])  # a second student is no second sample
    if unread:
        log.warning("%d of %d runs are not in the paired differences: %s", len(unread), len(comparison.runs), unread[0])
    return found


def _by_system(path: Path) -> dict[Key, list[Prediction]]:
    found: dict[Key, list[Prediction]] = {}
    predictions = read_records(path, Prediction) if path.exists() else []
    for prediction in predictions:
        found.setdefault((prediction.system, prediction.ratio), []).append(prediction)
    return found
