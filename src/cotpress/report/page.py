"""Self-contained page of a run or collection, readable without a network, in light and dark.

The page is `assets/page.html` filled with the objects below; style and script are beside it.
"""

import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cotpress.progress import duration
from cotpress.records import Interval, SystemResult
from cotpress.report import differences as paired
from cotpress.report import palette
from cotpress.report.advice import advice
from cotpress.report.comparison import Comparison, answers_of
from cotpress.report.figure import Picture, accuracy_picture, pareto_front, ratio_picture
from cotpress.report.results import Unfinished
from cotpress.report.table import Column, csv_table, detail_columns, markdown_table, notes, results_grid
from cotpress.report.tokens import Deletions
from cotpress.report.work import Work
from cotpress.store.grid import Grid
from cotpress.terminal import escaped

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page.

    Attributes:
        kind: `numbers` or `words`, for the alignment.
        note: Text below it.
        bars: By row and column the low end, value and high end of an interval in percent of the cell's width, or None.
        front: Numbers of the rows on the Pareto front.
    """

    caption: str
    grid: Grid
    kind: str = "numbers"
    note: str = ""
    bars: Sequence[Sequence[tuple[float, ...] | None]] = ()
    front: Sequence[int] = ()

    @property
    def extras(self) -> list[int]:
        """Places of the columns that a narrow page shows on demand."""
        return self.grid.extras

    @property
    def markdown(self) -> str:
        """The table and its note as Markdown."""
        return f"{self.grid.markdown()}\n{self.note}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Results of one student on one benchmark; `files` has the tables as CSV and Markdown by file name."""

    title: str
    table: Table
    notes: Sequence[str]
    details: Table
    pictures: Sequence[Picture]
    differences: Table | None
    seeds: Table | None
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Content of a page; empty parts are left out.

    Attributes:
        with_files: True if the pictures are also files beside the page.
        viewer: Data of the token viewer as JSON values; None without.
        missing: Reasons for missing parts of the viewer.
        texts: Heading and text of collapsed sections.
    """

    title: str
    note: str
    with_files: bool = False
    sections: Sequence[Section] = ()
    pictures: Sequence[Picture] = ()
    work: Table | None = None
    viewer: dict[str, Any] | None = None
    missing: Sequence[str] = ()
    deletion_picture: Picture | None = None
    deletions: Sequence[Deletions] = ()
    unfinished: Table | None = None
    texts: Sequence[tuple[str, str]] = ()


def render(page: Page) -> str:
    """Return the page as an HTML document that can be encoded as UTF-8."""
    text = _template().render(
        page=page,
        viewer=None if page.viewer is None else json_in_html(page.viewer),
        figure_number=itertools.count(1).__next__,
        style=palette.css() + _asset("style.css"),
        script=_asset("viewer.js"),
    )
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates of names and texts become question marks


def json_in_html(value: object) -> str:
    """Return JSON that is safe inside a `<script>` element: ASCII only, and no `<`, `>` or `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def section(comparison: Comparison, suffix: str) -> Section:
    """Return the section of one comparison, with a suffix for the stems of its files."""
    title, rows = comparison.title, comparison.rows
    answers = answers_of(comparison)
    files = {f"results{suffix}.csv": csv_table(comparison), f"results{suffix}.md": markdown_table(comparison)}
    differences = seeds = None
    if pairs := paired.compared(comparison, answers):
        note = paired.differences_note(pairs, comparison.confidence)
        differences = Table(f"{title}, paired differences", paired.differences_grid(pairs), note=note)
        files[f"differences{suffix}.csv"] = paired.differences_csv(pairs)
        files[f"differences{suffix}.md"] = differences.markdown
    if systems := paired.over_seeds(comparison, answers):
        note = paired.seeds_note(systems, comparison)
        seeds = Table(f"{title}, over all seeds", paired.seeds_grid(systems), note=note)
        files |= {f"seeds{suffix}.csv": paired.seeds_csv(systems), f"seeds{suffix}.md": seeds.markdown}
    front = pareto_front(rows, comparison.chance) if len(rows) > 1 else []
    grid = results_grid(comparison, on_page=True)
    front_rows = [i for i, row in enumerate(rows) if row in front]
    return Section(
        title=title,
        table=Table(title, grid, bars=_bars(rows, grid.headings), front=front_rows),
        notes=[*notes(comparison), *advice(comparison)],
        details=Table(f"{title}, more numbers", _grid(rows, detail_columns(rows))),
        pictures=list(filter(None, [accuracy_picture(comparison, suffix), ratio_picture(comparison, suffix)])),
        differences=differences,
        seeds=seeds,
        files=files,
    )


def work_table(artifacts: Sequence[Work]) -> Table | None:
    """Return every artifact with its time and the rows that it left out, by reason; None without any."""
    rows = tuple(
        (
            stage.title, duration(stage.seconds), "-" if tokens is None else f"{tokens:,}",
            "-" if tokens is None or stage.seconds < 0.5 else f"{tokens / stage.seconds:,.0f}",
            "computed" if stage.fresh else "found",
            ", ".join(f"{num} {reason}" for reason, num in sorted(dropped.items())) or "-", stage.artifact,
        )
        for stage, tokens, dropped in artifacts
    )  # fmt: skip
    grid = Grid(("stage", "time", "tokens", "tokens/s", "here", "rows left out", "artifact"), rows)
    return Table("Artifacts and their times", grid, kind="words") if rows else None


def unfinished_table(unfinished: Sequence[Unfinished]) -> Table | None:
    """Return the runs that are missing in the tables, and the reasons; None without any."""
    grid = Grid(("run", "why"), tuple((str(u.path), u.reason) for u in unfinished))
    return Table("Runs without results", grid, kind="words") if unfinished else None


def _grid(rows: Sequence[SystemResult], columns: Sequence[Column]) -> Grid:
    cells = tuple(tuple(column.cell(row) for column in columns) for row in rows)
    return Grid(tuple(column.heading for column in columns), cells)


def _bars(rows: Sequence[SystemResult], headings: Sequence[str]) -> list[list[tuple[float, ...] | None]]:
    most = max((x for r in rows for x in (r.mean_tokens.high, r.mean_tokens.value) if math.isfinite(x)), default=1.0)
    bars = []
    for row in rows:
        by_start = {"accuracy %\n[": _bar(row.accuracy, 1.0), "generated\ntokens": _bar(row.mean_tokens, most)}
        bars.append([next((bar for start, bar in by_start.items() if h.startswith(start)), None) for h in headings])
    return bars


def _bar(interval: Interval, most: float) -> tuple[float, ...]:
    ends = (interval.low, interval.value, interval.high)
    return tuple(round(100 * min(max(x / (most or 1.0), 0.0), 1.0), 1) for x in ends)


@functools.cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    return environment.from_string(_asset("page.html"))


def _visible(value: object) -> object:
    """Escape the control characters of a text that is put into the page; its own markup stays as it is."""
    return escaped(value) if type(value) is str else value


@functools.cache
def _asset(name: str) -> str:
    return files("cotpress.report").joinpath("assets", name).read_text(encoding="utf-8")
