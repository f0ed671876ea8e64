"""Tables of texts, written as aligned lines or Markdown, and tables of numbers, written as CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from cotpress.records import Interval
from cotpress.terminal import escaped, one_line

WIDTH = 120
"""Longest line of a table in a file or pipe, in characters."""
_NAMES_SHARE = 6
"""The first column keeps one part in so many of a line before other columns give way."""
_SHORTEST = 6
"""Characters that the first column keeps in any case."""
_GAP, _SMALL_GAP = 2, 1
"""Spaces between two columns, and in a table that is dense because of `DENSE` or in spite of all else."""
_GROUPS = re.compile(r"(?<!\S)(?:\w+\.)+(?=\w+=)")
"""Groups of the settings in a name: `data.` of `data.num_traces=60`."""
_KEYS = re.compile(r"(?<!\S)[\w.]+=")
"""Keys of the settings in a name: `data.num_traces=`."""


class Narrower(NamedTuple):
    """A column, by its heading, that a table with too long lines leaves out, or shows without its intervals.

    Attributes:
        instead: Heading of the column without intervals; empty if the column is left out.
    """

    heading: str
    instead: str = ""


DENSE = Narrower("")
"""Stands for the second space between columns among the columns that give way."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Headings and rows of cells, all of one length; the first `left` columns are words, the others numbers.

    Attributes:
        narrower: The columns that give way where lines are too long, the least important one first.
        gap: Spaces between two columns.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    narrower: tuple[Narrower, ...] = ()
    gap: int = _GAP

    def __post_init__(self) -> None:
        """Escape control characters of names in the cells."""
        object.__setattr__(self, "rows", tuple(tuple(map(one_line, row)) for row in self.rows))

    def within(self, width: int) -> "Grid":
        """Return the grid with lines of at most `width` characters.

        Columns give way in the order of `narrower` until names of a sixth of the line fit; then names are shortened to
        the room that is left. Names that such a length does not tell apart, and what may not give way, can exceed it.
        """
        grid, room = self, width // _NAMES_SHARE
        for narrower in self.narrower:
            if grid._with_names(room)._width <= width:
                break
            grid = replace(grid, gap=_SMALL_GAP) if narrower == DENSE else grid._without(narrower)
        # Whole names are worth the second space, and other columns are not
        for gap, names in ((_GAP, width), (_SMALL_GAP, width), (_GAP, room), (_SMALL_GAP, room)):
            grid = replace(grid, gap=gap)
            if grid._with_names(names)._width <= width:
                break
        return grid._with_names(width - sum(grid._widths[1:]) - grid.gap * (len(grid.headings) - 1))

    def given_way(self, narrowed: "Grid") -> list[str]:
        """Return the headings that a narrowed form of this grid lacks, each in one line."""
        return [_in_one_line(heading) for heading in self.headings if heading not in narrowed.headings]

    @property
    def extras(self) -> list[int]:
        """Places of the columns that the narrowest form leaves out."""
        places = {heading: place for place, heading in enumerate(self.headings)}
        for narrower in self.narrower:
            place = places.pop(narrower.heading, None)
            if place is not None and narrower.instead:
                places[narrower.instead] = place
        return [place for place in range(len(self.headings)) if place not in places.values()]

    def plain(self, width: int | None = None) -> str:
        """Return aligned lines; a heading may take several. `within` keeps a `width`."""
        grid = self if width is None else self.within(width)
        widths = grid._widths
        rule = ["-" * w for w in widths]
        text = ""
        for cells in [*grid._top, rule, *grid.rows]:
            first, others = cells[: grid.left], cells[grid.left :]
            padded = [*map(str.ljust, first, widths), *map(str.rjust, others, widths[grid.left :])]
            text += (" " * grid.gap).join(padded).rstrip() + "\n"
        return text

    def _without(self, narrower: Narrower) -> "Grid":
        """Leave out one column, or its intervals; a grid without the column stays as it is."""
        if narrower.heading not in self.headings:
            return self
        at = self.headings.index(narrower.heading)

        def cells(row: tuple[str, ...], instead: str) -> tuple[str, ...]:
            return (*row[:at], *([instead] if narrower.instead else []), *row[at + 1 :])

        rows = tuple(cells(row, row[at].partition(" [")[0]) for row in self.rows)
        return replace(self, headings=cells(self.headings, narrower.instead), rows=rows)

    def _with_names(self, width: int) -> "Grid":
        """Return the grid with a first column of at most `width` characters, as far as its names stay different."""
        names = shortened((row[0] for row in self.rows), max(width, _SHORTEST))
        return replace(self, rows=tuple((names[row[0]], *row[1:]) for row in self.rows))

    @property
    def _top(self) -> list[tuple[str, ...]]:
        """The lines of the headings."""
        heads = [heading.split("\n") for heading in self.headings]
        depth = max(map(len, heads))
        return list(zip(*([""] * (depth - len(lines)) + lines for lines in heads), strict=True))

    @property
    def _width(self) -> int:
        return sum(self._widths) + self.gap * (len(self._widths) - 1)

    @property
    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(*self._top, *self.rows, strict=True)]

    def markdown(self) -> str:
        """Return a Markdown table."""
        rule = ["---"] * self.left + ["---:"] * (len(self.headings) - self.left)
        headings = [_in_one_line(h) for h in self.headings]
        lines = [headings, rule, *([markdown_cell(c) for c in r] for r in self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _in_one_line(heading: str) -> str:
    return heading.replace("/\n", "/").replace("-\n", "").replace("\n", " ")


def markdown_cell(text: str) -> str:
    """Return a text for a cell of a Markdown table, in one line and without column borders or HTML."""
    return escaped(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Return each name with at most `width` characters, or with as few more as different names need to stay different.

    If one is too long, the settings in all names (`KEY=VALUE`) lose their groups or, if need be, their keys: the values
    tell rows apart. A part of a name that is still too long is left out, nearest to its end, so that what is shown fits
    no other name.
    """
    whole = list(dict.fromkeys(names))
    forms = [{name: form.sub("", name) for name in whole} for form in (re.compile("(?!)"), _GROUPS, _KEYS)]
    distinct = [form for form in forms if len({*form.values()}) == len(whole)]
    texts = next((form for form in distinct if max(map(len, form.values()), default=0) <= width), distinct[-1])
    return {name: _cut(text, [*texts.values()], width) for name, text in texts.items()}


def _cut(text: str, texts: Sequence[str], width: int) -> str:
    """Leave out a part of a text that is too long, as long a part as leaves it different from the other texts."""
    for kept in range(width - 1, len(text) - 1):
        for head in range(kept, -1, -1):
            start, end = text[:head], text[len(text) - (kept - head) :]
            if not any(o != text and o.startswith(start) and o.endswith(end) for o in texts):
                return f"{start}…{end}"
    return text


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return CSV with line feeds; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows(rows)
    return out.getvalue()


def interval_columns(names: Iterable[str]) -> list[str]:
    """Return the headings of intervals in CSV: `accuracy`, `accuracy_low`, `accuracy_high`."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def interval_cells(intervals: Iterable[Interval | None]) -> list[float | None]:
    """Return value, low and high end of each interval; None three times for a missing one."""
    return [x for i in intervals for x in ((None,) * 3 if i is None else (i.value, i.low, i.high))]
