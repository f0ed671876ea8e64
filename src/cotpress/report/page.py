"""One self-contained page per run or collection: opens from disk, asks no network, light and dark.

The page is `assets/page.html` filled with the objects below; its style and script stand beside it.
"""

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cotpress.progress import duration
from cotpress.records import Interval, SystemResult
from cotpress.report.collect import Unfinished
from cotpress.report.columns import Column, detail_columns, page_columns
from cotpress.report.comparison import Comparison
from cotpress.report.paired import Difference, differences_grid, differences_note
from cotpress.report.plots import pareto_front
from cotpress.report.seeds import HEADINGS, SeedsRow, seeds_grid, seeds_note
from cotpress.report.table import notes
from cotpress.report.work import Work

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell; `bar` is low end, value and high end of an interval in percent of the cell's width."""

    text: str
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row; the first cell names it. `front` marks it as on the Pareto front."""

    cells: tuple[Cell, ...]
    front: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; `kind` is `numbers` or `words`, which decides the alignment."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    kind: str = "numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture in the page, with links to its files where they lie beside the page."""

    svg: str
    caption: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The section of one student on one benchmark."""

    title: str
    table: Table
    notes: tuple[str, ...]
    has_front: bool
    details: Table
    figures: tuple[Figure, ...]
    differences: Table | None = None
    differences_note: str = ""
    seeds: Table | None = None
    seeds_note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionRow:
    """A kind of token: how many there are, and which percentage of them each ranker deletes."""

    name: str
    total: int
    shares: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionTable:
    """Kinds of tokens by ranker; `group` is its place in the viewer's data, from which the slider fills it."""

    title: str
    heading: str
    group: int
    rankers: tuple[str, ...]
    rows: tuple[DeletionRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that stands in a page; what is empty is left out.

    Attributes:
        viewer: The token viewer's data as JSON values; None without.
        missing: Why something is missing in the viewer.
        percent: Kept percentage that slider and tables begin with.
        texts: Heading and text, folded away.
    """

    title: str
    note: str
    comparisons: tuple[Results, ...] = ()
    figures: tuple[Figure, ...] = ()
    work: Table | None = None
    viewer: dict[str, Any] | None = None
    missing: tuple[str, ...] = ()
    num_viewed: int = 0
    percent: int = 100
    deletion_figures: tuple[Figure, ...] = ()
    deletion_tables: tuple[DeletionTable, ...] = ()
    unfinished: Table | None = None
    texts: tuple[tuple[str, str], ...] = ()


def render(page: Page) -> str:
    """The page as an HTML document that can be written as UTF-8, whatever stands in its texts."""
    viewer = None if page.viewer is None else json_in_html(page.viewer)
    text = _template().render(page=page, viewer=viewer, style=_asset("style.css"), script=_asset("viewer.js"))
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates of names and texts become question marks


def json_in_html(value: object) -> str:
    """JSON that stands safely inside a `<script>` element: ASCII only, and no `<`, `>` or `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def results(
    comparison: Comparison, figures: Sequence[Figure], pairs: Sequence[Difference] = (), seeds: Sequence[SeedsRow] = ()
) -> Results:
    """Table, notes, figures, details, paired differences and systems over their seeds, of one comparison."""
    rows = comparison.rows
    front = pareto_front(rows)
    main = page_columns(comparison.confidence, rows, comparison.published)
    return Results(
        title=comparison.title,
        table=_rows_table(comparison.title, rows, main, front if len(rows) > 1 else []),
        notes=tuple(notes(rows, comparison.published)),
        has_front=len(rows) > 1,
        details=_rows_table(f"{comparison.title}, more numbers", rows, detail_columns(rows), []),
        figures=tuple(figures),
        differences=_differences_table(comparison.title, pairs),
        differences_note=differences_note(pairs, comparison.confidence) if pairs else "",
        seeds=_seeds_table(comparison.title, seeds),
        seeds_note=seeds_note(comparison.confidence) if seeds else "",
    )


def _differences_table(title: str, pairs: Sequence[Difference]) -> Table | None:
    if not pairs:
        return None
    headings, *lines = differences_grid(pairs)
    rows = tuple(Row(tuple(Cell(text) for text in line)) for line in lines)
    return Table(caption=f"{title}, paired differences", headings=tuple(headings), rows=rows)


def _seeds_table(title: str, seeds: Sequence[SeedsRow]) -> Table | None:
    if not seeds:
        return None
    rows = tuple(Row(tuple(Cell(text) for text in line)) for line in seeds_grid(seeds))
    return Table(caption=f"{title}, over all seeds", headings=HEADINGS, rows=rows)


def work_table(found: Sequence[Work]) -> Table | None:
    """Every artifact with its time; None without any."""
    if not found:
        return None
    rows = [
        (
            w.label,
            duration(w.seconds),
            "-" if w.num_tokens is None else f"{w.num_tokens:,}",
            "-" if w.num_tokens is None or w.seconds < 0.5 else f"{w.num_tokens / w.seconds:,.0f}",
            "computed" if w.fresh else "found",
            w.artifact,
        )
        for w in found
    ]
    return _words("Artifacts and their times", ("stage", "time", "tokens", "tokens/s", "here", "artifact"), rows)


def unfinished_table(unfinished: Sequence[Unfinished]) -> Table | None:
    """Runs that are missing in the tables, and why; None if there are none."""
    return _words("Runs without results", ("run", "why"), [(str(u.path), u.reason) for u in unfinished])


def _words(caption: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table | None:
    if not rows:
        return None
    return Table(
        caption=caption,
        headings=headings,
        rows=tuple(Row(tuple(Cell(text) for text in row)) for row in rows),
        kind="words",
    )


def _rows_table(
    caption: str, rows: Sequence[SystemResult], shown: Sequence[Column], front: Sequence[SystemResult]
) -> Table:
    most = max((x for r in rows for x in (r.mean_tokens.high, r.mean_tokens.value) if math.isfinite(x)), default=1.0)
    lines = []
    for row in rows:
        cells = [Cell(row.system)]  # the name in full: a page has room for it
        for column in shown[1:]:
            bars = {"accuracy % [": (row.accuracy, 1.0), "generated tokens": (row.mean_tokens, most)}
            bar = next((_bar(*value) for name, value in bars.items() if column.name.startswith(name)), None)
            cells.append(Cell(column.cell(row), bar))
        lines.append(Row(tuple(cells), row in front))
    return Table(caption=caption, headings=tuple(column.name for column in shown), rows=tuple(lines))


def _bar(interval: Interval, most: float) -> tuple[float, float, float]:
    ends = (interval.low, interval.value, interval.high)
    low, at, high = (round(100 * min(max(x / (most or 1.0), 0.0), 1.0), 1) for x in ends)
    return low, at, high


@functools.cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html"))


@functools.cache
def _asset(name: str) -> str:
    return files("cotpress.report").joinpath("assets", name).read_text(encoding="utf-8")
