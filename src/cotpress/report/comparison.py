"""Which rows stand in one table, and what each is called there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cotpress.records import SystemResult
from cotpress.report.collect import Run
from cotpress.report.published import Lookup, published_numbers
from cotpress.report.row_names import Shown, is_baseline, told_apart


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
