"""Results of a benchmark: figures, each a median of several repetitions, and met or missed targets."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from experiments.speed.worker import Measurement


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of the table.

    Attributes:
        group: Part of the benchmark, e.g. `scoring`.
        case: What was done, e.g. `1024 tokens`.
        name: What the number is.
        unit: `x` for ratios, `s`, `tokens/s`, `MB`, or empty.
        values: One per repetition.
    """

    group: str
    case: str
    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the repetitions."""
        return median(self.values)

    def row(self) -> dict[str, Any]:
        """The figure as JSON values."""
        return {
            "group": self.group,
            "case": self.case,
            "name": self.name,
            "unit": self.unit,
            "min": min(self.values),
            "median": self.median,
            "max": max(self.values),
            "n": len(self.values),
        }


class Bound(Enum):
    """Direction of a target."""

    at_most = "<="
    at_least = ">="


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on every figure of one group and name.

    Attributes:
        case: Only this case; None means all of them.
    """

    group: str
    name: str
    bound: Bound
    value: float
    case: str | None = None

    def met_by(self, figure: Figure) -> bool:
        """True if the median meets the target."""
        return figure.median <= self.value if self.bound is Bound.at_most else figure.median >= self.value


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A target and what was measured for it; `figures` is empty if nothing was."""

    target: Target
    figures: tuple[Figure, ...]

    @property
    def num_met(self) -> int:
        """Cases in which the target is met."""
        return sum(self.target.met_by(figure) for figure in self.figures)

    @property
    def status(self) -> str:
        """`met` in every case, `missed` in one or more, or `not measured`."""
        if not self.figures:
            return "not measured"
        return "met" if self.num_met == len(self.figures) else "missed"

    @property
    def worst(self) -> Figure | None:
        """The figure furthest to the bad side."""
        worst = max if self.target.bound is Bound.at_most else min
        return worst(self.figures, key=lambda figure: figure.median) if self.figures else None

    def row(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        target, worst = self.target, self.worst
        return {
            "group": target.group,
            "name": target.name,
            "case": target.case or "all",
            "target": f"{target.bound.value} {target.value:g}",
            "worst": None if worst is None else worst.median,
            "worst_case": None if worst is None else worst.case,
            "num_met": self.num_met,
            "num_cases": len(self.figures),
            "status": self.status,
        }


def judge(targets: Sequence[Target], figures: Sequence[Figure]) -> list[Verdict]:
    """Every target with the figures that it is about."""
    judged = []
    for t in targets:
        about = [f for f in figures if (f.group, f.name) == (t.group, t.name) and t.case in (None, f.case)]
        judged.append(Verdict(target=t, figures=tuple(about)))
    return judged


def timed(measured: Sequence[Measurement]) -> Sequence[Measurement]:
    """Without the first repetition, which warms up, unless it is the only one."""
    return measured[1:] or measured


def ratios(over: Sequence[Measurement], under: Sequence[Measurement]) -> tuple[float, ...]:
    """Seconds of one system over those of another, repetition by repetition."""
    return tuple(a.seconds / b.seconds for a, b in zip(timed(over), timed(under), strict=True))


def rates(measured: Sequence[Measurement]) -> tuple[float, ...]:
    """Tokens per second."""
    return tuple(m.tokens / m.seconds for m in timed(measured))


def figures_csv(figures: Sequence[Figure]) -> str:
    """All figures, unrounded, as CSV."""
    out = io.StringIO()
    names = ["group", "case", "name", "unit", "min", "median", "max", "n"]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(figure.row() for figure in figures)
    return out.getvalue()
