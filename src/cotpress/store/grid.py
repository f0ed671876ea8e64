"""Tables of texts, written as aligned lines or Markdown, and tables of numbers, written as CSV."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cotpress.records import Interval
from cotpress.terminal import escaped, one_line

_SHORTEST = 6  # characters of the first column that stay in a table of limited width
_HASH_CHARS = 4


@dataclass(frozen=True, slots=True)
class Grid:
    """Headings and rows of cells, all of one length; the first `left` columns are words, the others numbers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def __post_init__(self) -> None:
        """Escape control characters of names in the cells."""
        object.__setattr__(self, "rows", tuple(tuple(map(one_line, row)) for row in self.rows))

    def narrowest(self, first: int) -> int:
        """Return the width of a table of lines whose first column is shortened to `first` characters."""
        cells = [*(heading.split("\n") for heading in self.headings)]
        widths = [max(map(len, [*lines, *(row[i] for row in self.rows)])) for i, lines in enumerate(cells)]
        return min(widths[0], first) + sum(widths[1:]) + len(widths) - 1

    def plain(self, width: int | None = None) -> str:
        """Return aligned lines; a heading may take several, and a `width` is kept by shortening the first column."""
        heads = [heading.split("\n") for heading in self.headings]
        depth = max(map(len, heads))
        top = list(zip(*([""] * (depth - len(lines)) + lines for lines in heads), strict=True))
        widths = [max(len(line[i]) for line in [*top, *self.rows]) for i in range(len(heads))]
        between = len(widths) - 1
        gap = 2 if width is None or sum(widths) + 2 * between <= width else 1
        if width is not None and (excess := sum(widths) + gap * between - width) > 0:
            widths[0] = max(widths[0] - excess, _SHORTEST)
        rule = ["-" * w for w in widths]
        names = shortened((row[0] for row in self.rows), widths[0])
        body = [(names[row[0]], *row[1:]) for row in self.rows]
        text = ""
        for first, *others in [*top, rule, *body]:
            padded = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
            text += (" " * gap).join(padded).rstrip() + "\n"
        return text

    def markdown(self) -> str:
        """Return a Markdown table."""
        rule = ["---"] * self.left + ["---:"] * (len(self.headings) - self.left)
        headings = [h.replace("\n", " ") for h in self.headings]
        lines = [headings, rule, *([markdown_cell(c) for c in r] for r in self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_cell(text: str) -> str:
    """Return a text for a cell of a Markdown table, in one line and without column borders or HTML."""
    return escaped(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def shorten(text: str, width: int) -> str:
    """Return `text` with its middle left out if it is longer than `width`."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[-(width - 1 - head) :]}"


def shortened(names: Iterable[str], width: int) -> dict[str, str]:
    """Return each name as `shorten` gives it; if that is the same for several, a hash of the name tells them apart."""
    short = {name: shorten(name, width) for name in names}
    several = Counter(short.values())
    return {name: text if several[text] == 1 else _hashed(name, width) for name, text in short.items()}


def _hashed(name: str, width: int) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    return f"{name[: max(width - _HASH_CHARS - 1, 1)]}~{digest}"


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
