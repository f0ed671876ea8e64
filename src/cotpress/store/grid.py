"""Tables of texts, written as aligned lines or Markdown, and tables of numbers, written as CSV."""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cotpress.records import Interval
from cotpress.terminal import escaped, one_line

_SHORTEST = 6  # characters of the first column that stay in a table of limited width
_HASH_CHARS = 4
_GROUPS = re.compile(r"(?<!\S)(?:\w+\.)+(?=\w+=)")
"""Groups of the settings in a name: `data.` of `data.num_traces=60`."""
_KEYS = re.compile(r"(?<!\S)[\w.]+=")
"""Keys of the settings in a name: `data.num_traces=`."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Headings and rows of cells, all of one length; the first `left` columns are words, the others numbers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def __post_init__(self) -> None:
        """Escape control characters of names in the cells."""
        object.__setattr__(self, "rows", tuple(tuple(map(one_line, row)) for row in self.rows))

    def narrowest(self, first: int, gap: int = 1) -> int:
        """Return the width of lines whose first column is shortened to `first` characters."""
        return self._width(gap) - max(self._widths[0] - first, 0)

    def fitted(self, width: int, gap: int = 1) -> "Grid":
        """Return the grid with a first column that is shortened so that its lines have `width` characters."""
        room = width - sum(self._widths[1:]) - gap * (len(self.headings) - 1)
        names = shortened((row[0] for row in self.rows), max(room, _SHORTEST))
        return replace(self, rows=tuple((names[row[0]], *row[1:]) for row in self.rows))

    def plain(self, width: int | None = None) -> str:
        """Return aligned lines; a heading may take several, and a `width` is kept by shortening the first column."""
        grid, gap = self, 2
        if width is not None and self._width(gap) > width:
            grid = self.fitted(width)
            gap = 2 if grid._width(2) <= width else 1
        widths = grid._widths
        rule = ["-" * w for w in widths]
        text = ""
        for first, *others in [*grid._top, rule, *grid.rows]:
            padded = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
            text += (" " * gap).join(padded).rstrip() + "\n"
        return text

    @property
    def _top(self) -> list[tuple[str, ...]]:
        """The lines of the headings."""
        heads = [heading.split("\n") for heading in self.headings]
        depth = max(map(len, heads))
        return list(zip(*([""] * (depth - len(lines)) + lines for lines in heads), strict=True))

    def _width(self, gap: int) -> int:
        return sum(self._widths) + gap * (len(self._widths) - 1)

    @property
    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(*self._top, *self.rows, strict=True)]

    def markdown(self) -> str:
        """Return a Markdown table."""
        rule = ["---"] * self.left + ["---:"] * (len(self.headings) - self.left)
        headings = [h.replace("\n", " ") for h in self.headings]
        lines = [headings, rule, *([markdown_cell(c) for c in r] for r in self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_cell(text: str) -> str:
    """Return a text for a cell of a Markdown table, in one line and without column borders or HTML."""
    return escaped(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Return each name with at most `width` characters, such that different names stay different.

    If one is too long, the settings in all names (`KEY=VALUE`) lose their groups or, if need be, their keys: the values
    tell rows apart. A part of a name that is still too long is left out, nearest to its middle, so that what is shown
    fits no other name.
    """
    whole = list(dict.fromkeys(names))
    forms = [{name: form.sub("", name) for name in whole} for form in (re.compile("(?!)"), _GROUPS, _KEYS)]
    distinct = [form for form in forms if len({*form.values()}) == len(whole)]
    texts = next((form for form in distinct if max(map(len, form.values()), default=0) <= width), distinct[-1])
    return {name: _cut(text, [*texts.values()], width) for name, text in texts.items()}


def _cut(text: str, texts: Sequence[str], width: int) -> str:
    """Leave out a part of a text that is too long; its hash takes the place of its end if no part tells it apart."""
    if len(text) <= width:
        return text
    kept = width - 1
    for head in sorted(range(kept + 1), key=lambda head: abs(head - kept // 2)):
        start, end = text[:head], text[len(text) - (kept - head) :]
        if not any(o != text and o.startswith(start) and o.endswith(end) for o in texts):
            return f"{start}…{end}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    return f"{text[: max(width - _HASH_CHARS - 1, 1)]}~{digest}"


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
