"""Rows that may stand in one table, under distinct names, and the judged answers behind them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cotpress.errors import ArtifactError
from cotpress.records import PREDICTIONS_FILE, Prediction, System, SystemResult
from cotpress.report.collect import Run
from cotpress.report.published import Lookup, published_numbers
from cotpress.report.row_names import Shown, distinguish
from cotpress.store.tables import read_records

log = logging.getLogger(__name__)

Answers = Mapping[System, Mapping[int, Sequence[Prediction]]]
"""Answers of each system, identified without its seed, by the seed that its student was trained with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rows of one student, one benchmark and one level of confidence.

    Attributes:
        rows: Every row once, under names that distinguish them; with several seeds, the seed is part of the name.
        runs: The runs that the rows are from.
        systems: Identity of each row of `runs` without its seed, by `row_key`.
    """

    model: str
    benchmark: str
    confidence: float
    rows: tuple[SystemResult, ...]
    runs: tuple[Run, ...] = ()
    systems: Mapping[object, System] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """`model on benchmark`."""
        return f"{self.model} on {self.benchmark}"

    @property
    def published(self) -> Lookup:
        """Published counterparts of the rows."""
        return published_numbers(self.model, self.benchmark)


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Return the rows of all runs, one comparison per student, benchmark and level of confidence.

    A system that several runs share (Original, say) stands there once. Where runs differ in more than scorer and ratio,
    the names of the rows contain the differing settings, such as `condition=question` or `data.num_traces=60`, or the
    seed.
    """
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        key = (run.results.model, run.results.benchmark, run.results.confidence)
        groups.setdefault(key, []).append(run)
    return [_comparison(*key, members) for key, members in groups.items()]


def row_key(row: SystemResult, seed: int) -> object:
    """Return a key that is equal for equal rows: of the same artifacts, or without any of the same numbers and seed."""
    if row.artifacts:
        return row.system, row.target_ratio, tuple(sorted(row.artifacts.items()))
    return row.system, row.target_ratio, seed, row.accuracy, row.mean_tokens


def _comparison(model: str, benchmark: str, confidence: float, runs: Sequence[Run]) -> Comparison:
    seen: dict[object, Shown] = {}
    for run in runs:
        for row in run.results.rows:
            key, shown = row_key(row, run.results.seed), Shown.in_run(row, run.results)
            seen[key] = seen[key].also(shown) if key in seen else shown
    several_seeds = len({run.results.seed for run in runs}) > 1
    systems = distinguish(seen)
    named = []
    for key, shown in seen.items():
        seed = min(shown.seeds) if several_seeds and len(shown.seeds) == 1 else None
        system = replace(systems[key], seed=seed)
        named.append(replace(shown.row, system=system.label, identity=system))
    order = list(dict.fromkeys(row.system for row in named))
    rows = sorted(named, key=lambda r: (not r.source.is_baseline, order.index(r.system), -r.target_ratio))
    return Comparison(
        model=model, benchmark=benchmark, confidence=confidence, rows=tuple(rows), runs=tuple(runs), systems=systems
    )


def answers_of(comparison: Comparison) -> Answers:
    """Return the answers of every system of one table, in the order of the runs.

    Rows that several runs share are counted once, and a system has the answers of one student per seed. Runs whose
    predictions are missing or cannot be read are left out.
    """
    answers: dict[System, dict[int, Sequence[Prediction]]] = {}
    seen: set[object] = set()
    unread: list[str] = []
    for run in comparison.runs:
        try:
            predictions = _by_row(run.path / PREDICTIONS_FILE)
        except ArtifactError as error:  # of another release, or damaged: the table itself does not need them
            unread.append(str(error))
            continue
        for row in run.results.rows:
            own, key = predictions.get((row.system, row.target_ratio)), row_key(row, run.results.seed)
            if own is not None and key not in seen:
                seen.add(key)
                by_seed = answers.setdefault(comparison.systems[key], {})
                by_seed.setdefault(run.results.seed, own)  # a second student of a seed is no second sample
    if unread:
        log.warning("%d of %d runs are not in the paired differences: %s", len(unread), len(comparison.runs), unread[0])
    return answers


def _by_row(path: Path) -> dict[tuple[str, float], list[Prediction]]:
    rows: dict[tuple[str, float], list[Prediction]] = {}
    for prediction in read_records(path, Prediction) if path.exists() else []:
        rows.setdefault((prediction.system, prediction.ratio), []).append(prediction)
    return rows
