"""The benchmark's tables: rich on a terminal, plain aligned text elsewhere."""

import sys
from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.speed.figures import Figure, Verdict

WIDTH = 130
_STYLES = {"met": "green", "missed": "red", "not measured": "yellow"}


def show(figures: Sequence[Figure], verdicts: Sequence[Verdict], skipped: dict[str, str]) -> None:
    """Write figures, targets and what was not measured to standard output."""
    if sys.stdout.isatty():
        _print(Console(highlight=False), box.SIMPLE_HEAD, figures, verdicts, skipped)
    else:
        sys.stdout.write(text(figures, verdicts, skipped))


def text(figures: Sequence[Figure], verdicts: Sequence[Verdict], skipped: dict[str, str]) -> str:
    """The same as aligned plain text."""
    out = StringIO()
    lines = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
    _print(Console(file=out, width=WIDTH, highlight=False), lines, figures, verdicts, skipped)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _print(
    console: Console, lines: box.Box, figures: Sequence[Figure], verdicts: Sequence[Verdict], skipped: dict[str, str]
) -> None:
    for group in dict.fromkeys(figure.group for figure in figures):
        console.print(_figures(group, [f for f in figures if f.group == group], lines))
    if verdicts:
        console.print(_targets(verdicts, lines))
    for group, reason in skipped.items():
        console.print(Text(f"not measured: {group}: {reason}", style="yellow"))


def number(value: float) -> str:
    """Three significant digits; no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _figures(group: str, figures: Sequence[Figure], lines: box.Box) -> Table:
    table = Table(title=group, title_justify="left", box=lines, title_style="bold")
    table.add_column("case", no_wrap=True)
    table.add_column("figure", no_wrap=True)
    for heading in ("median", "min", "max", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    before = None
    for f in figures:
        spread = [number(x) for x in (f.median, min(f.values), max(f.values))]
        case = f.case if f.case != before else ""
        table.add_row(case, f.name, *spread, str(len(f.values)), f.unit)
        before = f.case
    return table


def _targets(verdicts: Sequence[Verdict], lines: box.Box) -> Table:
    table = Table(title="targets", title_justify="left", box=lines, title_style="bold")
    for heading in ("part", "figure", "target", "worst", "of", "cases met", "verdict"):
        right = heading in ("target", "worst", "cases met")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for v in verdicts:
        worst = v.worst
        met = f"{v.num_met}/{len(v.figures)}" if v.figures else ""
        target = f"{v.target.bound.value} {number(v.target.value)}"
        value, case = ("", "") if worst is None else (number(worst.median), worst.case)
        table.add_row(v.target.group, v.target.name, target, value, case, met, Text(v.status, _STYLES[v.status]))
    return table
