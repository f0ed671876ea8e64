"""Which rows stand in one table, and what each is called there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cotpress.records import SystemResult
from cotpress.report.collect import Run
from cotpress.report.published import Lookup, published_numbers

_BASELINES = ("original", "base", "beconcise", "onlynumbers", "abbrewords", "lc-prompt", "truncation")
"""First words of rows that stand above those of scorers."""


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
    ratio, the rows of a run say in what: settings such as `condition=question`, or the seed.
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row, the seeds of the runs that show it, and the settings of the first of them."""

    row: SystemResult
    seeds: set[int]
    settings: Mapping[str, str]


def _comparison(model: str, benchmark: str, confidence: float, runs: Sequence[Run]) -> Comparison:
    seen: dict[object, _Seen] = {}
    for run in runs:
        settings = _flat(run.results.essentials)
        for row in run.results.rows:
            same = identity(row, run.results.seed)
            seen.setdefault(same, _Seen(row, set(), settings)).seeds.add(run.results.seed)
    several_seeds = len({run.results.seed for run in runs}) > 1
    names = _told_apart(seen)
    named = []
    for same, found in seen.items():
        seed = f" seed={min(found.seeds)}" if several_seeds and len(found.seeds) == 1 else ""
        named.append(replace(found.row, system=names[same] + seed))
    order = list(dict.fromkeys(row.system for row in named))
    rows = sorted(named, key=lambda r: (not is_baseline(r.system), order.index(r.system), -r.target_ratio))
    return Comparison(
        model=model, benchmark=benchmark, confidence=confidence, rows=tuple(rows), runs=tuple(runs), names=names
    )


def _told_apart(seen: Mapping[object, _Seen]) -> dict[object, str]:
    """Names under which no two rows of one seed look alike, if any setting tells them apart."""
    names = {same: found.row.system for same, found in seen.items()}
    for system in set(names.values()):
        members = {same: found for same, found in seen.items() if found.row.system == system}
        places = [(found.row.target_ratio, seed) for found in members.values() for seed in found.seeds]
        if len(set(places)) == len(places):
            continue
        keys = dict.fromkeys(key for found in members.values() for key in found.settings)
        for key in (k for k in keys if len({found.settings.get(k) for found in members.values()}) > 1):
            for same, found in members.items():
                if (value := found.settings.get(key)) is not None:
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


def is_baseline(system: str) -> bool:
    """True for a system that no scorer has a part in."""
    return system.lower().split(" ")[0] in _BASELINES
