"""The results table: rich on a terminal, aligned plain text anywhere else, Markdown for documents."""

import csv
import io
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cotpress.records import Interval, SystemResult

WIDTH = 100
"""Columns that the table fits in."""
NAME_WIDTH = 20
"""Longest shown system name."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a heading of two lines, and how a row's cell is written."""

    heading: tuple[str, str]
    cell: Callable[[SystemResult], str]

    @property
    def name(self) -> str:
        """The heading in one line."""
        return " ".join(part for part in self.heading if part).replace("- ", "")


_COLUMNS = (
    Column(("", "System"), lambda r: shorten(r.system)),
    Column(("asked", "ratio"), lambda r: f"{r.target_ratio:g}"),
    Column(("actual", "ratio"), lambda r: "-" if r.actual_ratio is None else f"{r.actual_ratio:.3f}"),
    Column(("accuracy %", "[{level} CI]"), lambda r: percent_interval(r.accuracy)),
    Column(("", "n"), lambda r: str(r.accuracy.n)),
    Column(("generated", "tokens"), lambda r: f"{r.mean_tokens.value:.1f}"),
    Column(("tokens vs", "Original"), lambda r: relative(r.generated_ratio)),
    Column(("trun-", "cated"), lambda r: f"{100 * r.truncation_rate:.1f} %"),
    Column(("s per", "sample"), lambda r: f"{r.seconds_per_sample:.2f}"),
)


def columns(confidence: float) -> list[Column]:
    """The columns, with the level of the intervals in the heading."""
    level = f"{100 * confidence:g} %"
    return [replace(c, heading=(c.heading[0], c.heading[1].format(level=level))) for c in _COLUMNS]


def shorten(name: str) -> str:
    """`name` with its middle left out if it is too long for the table."""
    if len(name) <= NAME_WIDTH:
        return name
    head = (NAME_WIDTH - 1) // 2
    return f"{name[:head]}…{name[-(NAME_WIDTH - 1 - head) :]}"


def percent_interval(interval: Interval) -> str:
    """`85.9 [80.1, 90.2]`, in percent."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def relative(ratio: float | None) -> str:
    """Generated tokens relative to Original as a change: `-42.0 %`; `-` where there is no Original."""
    if ratio is None:
        return "-"
    change = 100 * (ratio - 1)
    return f"{0.0 if math.isclose(change, 0, abs_tol=0.05) else change:+.1f} %".replace("+0.0", "0.0")


def plain_table(rows: Sequence[SystemResult], title: str = "", *, confidence: float = 0.95) -> str:
    """The table as aligned text of at most 100 columns, ending in a line break."""
    shown = columns(confidence)
    cells = [[column.cell(row) for column in shown] for row in rows]
    headings = [[column.heading[line] for column in shown] for line in (0, 1)]
    widths = [max(len(line[i]) for line in [*headings, *cells]) for i in range(len(shown))]
    rule = ["-" * width for width in widths]
    lines = [_aligned(line, widths) for line in [*headings, rule, *cells]]
    return "\n".join([title, *lines] if title else lines) + "\n"


def markdown_table(rows: Sequence[SystemResult], *, confidence: float = 0.95) -> str:
    """The table as Markdown."""
    shown = columns(confidence)
    lines = [[column.name for column in shown]]
    lines += [["---"] + ["---:"] * (len(shown) - 1)]
    lines += [[column.cell(row).replace("|", "\\|") for column in shown] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def csv_table(rows: Sequence[SystemResult]) -> str:
    """Every number of the rows, unrounded, as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    intervals = ("accuracy", "mean_tokens", "accuracy_difference")
    parts = [f"{name}{suffix}" for name in intervals for suffix in ("", "_low", "_high")]
    scalars = ("target_ratio", "actual_ratio", "generated_ratio", "truncation_rate", "seconds_per_sample")
    writer.writerow(["system", "n", *scalars, *parts])
    for row in rows:
        ends: list[float | None] = []
        for name in intervals:
            interval: Interval | None = getattr(row, name)
            ends += [None] * 3 if interval is None else [interval.value, interval.low, interval.high]
        writer.writerow([row.system, row.accuracy.n, *(getattr(row, name) for name in scalars), *ends])
    return out.getvalue()


def show(rows: Sequence[SystemResult], title: str, *, confidence: float = 0.95) -> None:
    """Write the table to standard output: with colours and lines on a terminal, else as plain text."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain_table(rows, title, confidence=confidence) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    shown = columns(confidence)
    for i, column in enumerate(shown):
        heading = "\n".join(column.heading)
        table.add_column(heading, justify="right" if i else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in shown))  # Text: a name is no markup
    console = Console()
    if console.width < WIDTH:  # a narrow terminal may break lines, but no number may be cut short
        console = Console(width=WIDTH)
    console.print(table)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(padded).rstrip()
