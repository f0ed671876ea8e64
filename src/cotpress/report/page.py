"""Self-contained page of a run or collection, readable without a network, in light and dark.

The page is `assets/page.html` filled with the objects below; style and script are beside it.
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
from cotpress.report.comparison import Comparison
from cotpress.report.differences import Difference, SeedsRow, differences_grid, differences_note, seeds_grid, seeds_note
from cotpress.report.figure import pareto_front
from cotpress.report.results import Unfinished
from cotpress.report.table import Column, detail_columns, notes, page_columns
from cotpress.report.tokens import Deletions
from cotpress.report.work import Work
from cotpress.store.grid import Grid

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell; `bar` holds the low end, value and high end of an interval in percent of the cell's width."""

    text: str
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row, named by its first cell; `front` marks rows on the Pareto front."""

    cells: tuple[Cell, ...]
    front: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `kind` is `numbers` or `words`, for the alignment."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    kind: str = "numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture in the page, with links to its files beside the page."""

    svg: str
    caption: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Section of one student on one benchmark."""

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
class DeletionTable:
    """Deleted percentages of kinds of tokens by ranker; each row has a name, a number of tokens and percentages."""

    title: str
    heading: str
    rankers: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Content of a page; empty parts are left out.

    Attributes:
        viewer: Data of the token viewer as JSON values; None without.
        missing: Reasons for missing parts of the viewer.
        percent: Initial kept percentage of slider and tables.
        texts: Heading and text of collapsed sections.
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
    """Return the page as an HTML document that can be encoded as UTF-8."""
    viewer = None if page.viewer is None else json_in_html(page.viewer)
    text = _template().render(page=page, viewer=viewer, style=_asset("style.css"), script=_asset("viewer.js"))
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates of names and texts become question marks


def json_in_html(value: object) -> str:
    """Return JSON that is safe inside a `<script>` element: ASCII only, and no `<`, `>` or `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def results(
    comparison: Comparison, figures: Sequence[Figure], pairs: Sequence[Difference] = (), seeds: Sequence[SeedsRow] = ()
) -> Results:
    """Return the section of one comparison: table, notes, figures, details, paired differences and seeds."""
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
        differences=_table(f"{comparison.title}, paired differences", differences_grid(pairs)) if pairs else None,
        differences_note=differences_note(len(pairs), comparison.confidence) if pairs else "",
        seeds=_table(f"{comparison.title}, over all seeds", seeds_grid(seeds)) if seeds else None,
        seeds_note=seeds_note(comparison.confidence) if seeds else "",
    )


def work_table(artifacts: Sequence[Work]) -> Table | None:
    """Return every artifact with its time; None without any."""
    rows = tuple(
        (
            w.label, duration(w.seconds), "-" if w.num_tokens is None else f"{w.num_tokens:,}",
            "-" if w.num_tokens is None or w.seconds < 0.5 else f"{w.num_tokens / w.seconds:,.0f}",
            "computed" if w.fresh else "found", w.artifact,
        )
        for w in artifacts
    )  # fmt: skip
    grid = Grid(("stage", "time", "tokens", "tokens/s", "here", "artifact"), rows)
    return _table("Artifacts and their times", grid, kind="words") if rows else None


def deletion_table(title: str, heading: str, group: Sequence[Deletions], percent: int) -> DeletionTable:
    """Return the deletions of some rankers at a kept percentage."""
    shares = [d.share(percent) for d in group]
    rows = tuple(
        # halves are rounded up, as in the page's script
        (name, int(max(d.totals[k] for d in group)), tuple(int(100 * share[k] + 0.5) for share in shares))
        for k, name in enumerate(group[0].names)
    )
    return DeletionTable(title=title, heading=heading, rankers=tuple(d.ranker for d in group), rows=rows)


def unfinished_table(unfinished: Sequence[Unfinished]) -> Table | None:
    """Return the runs that are missing in the tables, and the reasons; None without any."""
    grid = Grid(("run", "why"), tuple((str(u.path), u.reason) for u in unfinished))
    return _table("Runs without results", grid, kind="words") if unfinished else None


def _table(caption: str, grid: Grid, kind: str = "numbers") -> Table:
    return Table(caption, grid.headings, tuple(Row(tuple(map(Cell, row))) for row in grid.rows), kind)


def _rows_table(
    caption: str, rows: Sequence[SystemResult], shown: Sequence[Column], front: Sequence[SystemResult]
) -> Table:
    most = max((x for r in rows for x in (r.mean_tokens.high, r.mean_tokens.value) if math.isfinite(x)), default=1.0)
    lines = []
    for row in rows:
        bars = {"accuracy % [": _bar(row.accuracy, 1.0), "generated tokens": _bar(row.mean_tokens, most)}
        cells = [Cell(row.system)]  # with the whole name
        for column in shown[1:]:
            bar = next((bar for name, bar in bars.items() if column.name.startswith(name)), None)
            cells.append(Cell(column.cell(row), bar))
        lines.append(Row(tuple(cells), row in front))
    return Table(caption, tuple(column.name for column in shown), tuple(lines))


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
