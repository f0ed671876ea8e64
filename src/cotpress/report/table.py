"""Results table: its columns, its notes, and its forms for terminals, documents and CSV.

Every accuracy stands with its interval and its n; ratios are requested / kept in training / generated. Notes below the
table say whether answers get longer with the ratio and never longer than without compression: students may write more
as the ratio falls, as in the table of the CTS paper, which a list of accuracies hides.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cotpress.records import Interval, SystemResult
from cotpress.report.published import Lookup
from cotpress.store.grid import Grid, csv_text, interval_cells, interval_columns, shorten

NAME_WIDTH = 20
"""Longest name of a system in a table."""
LONGER = "^"
"""Mark of the generated ratio of a student that writes more than the system it is compared with."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a heading of two lines, and the text of a row's cell."""

    heading: tuple[str, str]
    cell: Callable[[SystemResult], str]

    @property
    def name(self) -> str:
        """The heading in one line."""
        return " ".join(part for part in self.heading if part).replace("- ", "")


_COLUMNS = (
    Column(("", "System"), lambda r: shorten(r.system, NAME_WIDTH)),
    Column(("ratio: asked/", "actual/written"), lambda r: ratios(r)),
    Column(("accuracy %", "[{level} CI]"), lambda r: percent_interval(r.accuracy)),
    Column(("", "n"), lambda r: f"{r.accuracy.n}x{r.num_samples}" if r.num_samples > 1 else str(r.accuracy.n)),
    Column(("vs Original,", "points [CI]"), lambda r: difference(r.accuracy_difference)),
    Column(("generated", "tokens [CI]"), lambda r: count_interval(r.mean_tokens)),
    Column(("cut off/", "loops %"), lambda r: f"{_percent(r.truncation_rate)}/{_percent(r.loop_rate)}"),
    Column(("s per", "answer"), lambda r: _number(r.seconds_per_sample, 0 if r.seconds_per_sample >= 100 else 2)),
)

_DETAILS = (
    Column(("", "System"), lambda r: shorten(r.system, NAME_WIDTH)),
    Column(("asked", "ratio"), lambda r: f"{r.target_ratio:g}"),
    Column(("standard", "error"), lambda r: "-" if r.standard_error is None else f"{100 * r.standard_error:.2f}"),
    Column(("training", "tokens"), lambda r: change(r.training_reduction)),
    Column(("tokens vs", "Original"), lambda r: change(r.inference_reduction)),
    Column(("generated", "ratio vs"), lambda r: r.generated_against or "-"),
    Column(("thinking", "ratio"), lambda r: _number(r.generated_thinking_ratio, 2)),
    Column(("thinking", "tokens"), lambda r: _number(r.mean_thinking_tokens, 1)),
    Column(("answer", "tokens"), lambda r: _number(r.mean_answer_tokens, 1)),
    Column(("unclosed", "%"), lambda r: _percent(r.unclosed_rate)),
)


def columns(confidence: float, rows: Sequence[SystemResult] = (), published: Lookup | None = None) -> list[Column]:
    """Return the columns of the main table, with the level of the intervals in the heading.

    Without published counterparts of any row, their column is left out.
    """
    level = f"{100 * confidence:g} %"
    shown = [replace(c, heading=(c.heading[0], c.heading[1].format(level=level))) for c in _COLUMNS]
    if published is not None and any(map(published, rows)):
        shown.append(Column(("", "published"), lambda r: p.cell if (p := published(r)) else "-"))
    return shown


def page_columns(confidence: float, rows: Sequence[SystemResult], published: Lookup) -> list[Column]:
    """Return the columns of the main table of a page, which shows published numbers beside the measured ones."""
    shown = columns(confidence)
    if not any(map(published, rows)):
        return shown
    accuracy = Column(("accuracy %", "published"), lambda r: f"{float(p.accuracy):.1f}" if (p := published(r)) else "-")
    tokens = Column(("tokens", "published"), lambda r: f"{float(p.tokens):.0f}" if (p := published(r)) else "-")
    after = {"accuracy %": accuracy, "generated": tokens}
    return [c for column in shown for c in (column, after.get(column.heading[0])) if c is not None]


def detail_columns(rows: Sequence[SystemResult]) -> list[Column]:
    """Return the columns of the second table of a page, without those that are empty in every row."""
    shown = list(_DETAILS)
    if any(r.mean_reference_tokens for r in rows):
        shown.append(Column(("reference", "tokens [CI]"), lambda r: count_interval(r.mean_reference_tokens)))
    most = max((len(r.pass_at_k) for r in rows), default=0)
    for k in range(2, most + 1):
        if k & (k - 1) == 0 or k == most:  # powers of two and the last
            shown.append(Column((f"pass@{k} %", "[CI]"), _pass_cell(k)))
    for budget in sorted({b.budget for r in rows for b in r.accuracy_at_budgets}):
        shown.append(Column(("accuracy % at", f"{budget} tokens"), _budget_cell(budget)))
    return shown


def _pass_cell(k: int) -> Callable[[SystemResult], str]:
    return lambda r: percent_interval(r.pass_at_k[k - 1]) if len(r.pass_at_k) >= k else "-"


def _budget_cell(budget: int) -> Callable[[SystemResult], str]:
    return lambda r: next((percent_interval(b.accuracy) for b in r.accuracy_at_budgets if b.budget == budget), "-")


def ratios(row: SystemResult) -> str:
    """Return `0.5/0.52/0.61`: requested, kept in training, generated; `^` if the student writes more than without
    compression."""
    written = _number(row.generated_ratio, 2) + (LONGER if row.lengthened and row.target_ratio < 1 else "")
    return f"{row.target_ratio:g}/{_number(row.actual_ratio, 2)}/{written}"


def percent_interval(interval: Interval) -> str:
    """Return `85.9 [80.1, 90.2]`, in percent."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def difference(interval: Interval | None) -> str:
    """Return `-2.1 [-4.0, -0.3]`, in percentage points; `-` for None."""
    if interval is None:
        return "-"
    ends = (interval.value, interval.low, interval.high)
    value, low, high = (f"{100 * x:+.1f}".replace("-0.0", "+0.0") for x in ends)
    return f"{value} [{low}, {high}]"


def count_interval(interval: Interval | None) -> str:
    """Return `157 [150, 164]`, with one decimal below 100."""
    if interval is None:
        return "-"
    digits = 1 if interval.value < 100 else 0
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def change(reduction: float | None) -> str:
    """Return a reduction as a change: 0.42 is `-42.0 %`; `-` for None."""
    if reduction is None:
        return "-"
    return f"{-100 * reduction:+.1f} %".replace("+0.0", "0.0").replace("-0.0", "0.0")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "100" if share == 1 else f"{100 * share:.1f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monotonicity:
    """Order of the generated tokens of one system at its ratios.

    Attributes:
        num_pairs: Pairs of rows with different ratios.
        violations: Pairs (row of the lower ratio, row of the higher ratio) where the lower ratio writes more.
    """

    system: str
    num_pairs: int
    violations: tuple[tuple[SystemResult, SystemResult], ...]


def monotonicity(rows: Sequence[SystemResult]) -> list[Monotonicity]:
    """Return one verdict per system that has rows at several ratios, in the rows' order.

    A student with a control marker and students of a single ratio are different systems, also under one name.
    """
    verdicts = []
    for name, against in dict.fromkeys((row.system, row.generated_against) for row in rows):
        series = [r for r in rows if (r.system, r.generated_against) == (name, against)]
        series.sort(key=lambda r: r.target_ratio)
        pairs = [(a, b) for a, b in itertools.combinations(series, 2) if a.target_ratio < b.target_ratio]
        wrong = tuple((a, b) for a, b in pairs if a.mean_tokens.value > b.mean_tokens.value)
        if pairs:
            verdicts.append(Monotonicity(system=name, num_pairs=len(pairs), violations=wrong))
    return verdicts


def control_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Return sentences about students that write longer answers and about the order of the ratios."""
    notes = []
    compared = [r for r in rows if r.generated_ratio is not None and r.target_ratio < 1]
    longer = [r for r in compared if r.lengthened]
    if longer:
        named = ", ".join(f"{r.system} at {r.target_ratio:g} (x{r.generated_ratio:.2f})" for r in longer)
        notes.append(f"{len(longer)} of {len(compared)} compressed students write LONGER (^): {named}")
    verdicts = monotonicity(rows)
    obeying = list(dict.fromkeys(v.system for v in verdicts if not v.violations))
    if obeying:
        notes.append(f"generated tokens never fall as the asked ratio rises: {', '.join(obeying)}")
    for verdict in (v for v in verdicts if v.violations):
        ordered = verdict.num_pairs - len(verdict.violations)
        wrong = "; ".join(
            f"{low.mean_tokens.value:.0f} tokens at {low.target_ratio:g} > "
            f"{high.mean_tokens.value:.0f} at {high.target_ratio:g}"
            for low, high in verdict.violations
        )
        notes.append(f"{verdict.system}: {ordered} of {verdict.num_pairs} pairs of ratios in order, not {wrong}")
    return notes


WIDTH = 120
"""Longest line of the table in characters."""

_SCALARS = (
    "target_ratio", "actual_ratio", "generated_ratio", "generated_against", "generated_thinking_ratio", "num_samples",
    "standard_error", "training_reduction", "inference_reduction", "truncation_rate", "loop_rate", "unclosed_rate",
    "mean_thinking_tokens", "mean_answer_tokens", "seconds_per_sample", "num_training_rows",
)  # fmt: skip
_INTERVALS = ("accuracy", "mean_tokens", "accuracy_difference", "mean_reference_tokens")


def notes(rows: Sequence[SystemResult], published: Lookup | None = None) -> list[str]:
    """Return the sentences below the table: students with longer answers or fewer training traces, ratios out of order,
    sources of published numbers."""
    printed = [p for r in rows if published is not None and (p := published(r)) is not None]
    sources = [f"{p.source}, accuracy % @ tokens, no interval" for p in printed]
    remarks = [p.note for p in printed if p.note]
    texts = (f"published: {text}" for text in dict.fromkeys([*sources, *remarks]))
    return [*control_notes(rows), *_training_notes(rows), *texts]


def _training_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Return the numbers of training traces, if they differ: then the compression is not the only difference."""
    trained = [row for row in rows if row.num_training_rows is not None]
    numbers = sorted({row.num_training_rows or 0 for row in trained}, reverse=True)
    if len(numbers) < 2:
        return []
    parts = []
    for number in numbers:
        others = {row.system for row in trained if row.num_training_rows != number}
        own = [row for row in trained if row.num_training_rows == number]
        names = (f"{r.system} at {r.target_ratio:g}" if r.system in others else r.system for r in own)
        parts.append(f"{number} ({', '.join(dict.fromkeys(names))})")
    return [f"students learnt from different numbers of traces: {', '.join(parts)}"]


def results_grid(rows: Sequence[SystemResult], *, confidence: float = 0.95, published: Lookup | None = None) -> Grid:
    """Return the main table as texts, with headings of two lines."""
    shown = columns(confidence, rows, published)
    headings = tuple("\n".join(column.heading) for column in shown)
    return Grid(headings, tuple(tuple(column.cell(row) for column in shown) for row in rows))


def plain_table(
    rows: Sequence[SystemResult], title: str = "", *, confidence: float = 0.95, published: Lookup | None = None
) -> str:
    """Return the table as aligned text of at most 120 characters a line, with notes below it."""
    text = results_grid(rows, confidence=confidence, published=published).plain(WIDTH)
    below = "".join(f"  {note}\n" for note in notes(rows, published))
    return f"{title}\n{text}{below}" if title else text + below


def markdown_table(rows: Sequence[SystemResult], *, confidence: float = 0.95, published: Lookup | None = None) -> str:
    """Return the table as Markdown, with its notes as a list below it."""
    headings = tuple(column.name for column in columns(confidence, rows, published))
    grid = replace(results_grid(rows, confidence=confidence, published=published), headings=headings)
    below = "".join(f"- {note}\n" for note in notes(rows, published))
    return grid.markdown() + (f"\n{below}" if below else "")


def csv_table(rows: Sequence[SystemResult], *, published: Lookup | None = None) -> str:
    """Return every number of the rows, unrounded, as CSV; fractions in [0, 1], published accuracy in percent."""
    most = max((len(row.pass_at_k) for row in rows), default=0)
    budgets = sorted({b.budget for row in rows for b in row.accuracy_at_budgets})
    named = [*_INTERVALS, *(f"pass_at_{k}" for k in range(2, most + 1)), *(f"accuracy_at_{b}_tokens" for b in budgets)]
    papers = ["published_accuracy", "published_tokens", "published_source"]

    def line(row: SystemResult) -> list[object]:
        at = {b.budget: b.accuracy for b in row.accuracy_at_budgets}
        intervals: list[Interval | None] = [getattr(row, name) for name in _INTERVALS]
        intervals += [row.pass_at_k[k - 1] if k <= len(row.pass_at_k) else None for k in range(2, most + 1)]
        intervals += [at.get(b) for b in budgets]
        paper = published(row) if published is not None else None
        printed = (None,) * 3 if paper is None else (paper.accuracy, paper.tokens, paper.source)
        scalars = (getattr(row, name) for name in _SCALARS)
        return [row.system, row.accuracy.n, *scalars, *interval_cells(intervals), *printed]

    return csv_text(["system", "n", *_SCALARS, *interval_columns(named), *papers], map(line, rows))


def show(
    rows: Sequence[SystemResult], title: str, *, confidence: float = 0.95, published: Lookup | None = None
) -> None:
    """Write the table to standard output: with lines on a terminal, else as plain text."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain_table(rows, title, confidence=confidence, published=published) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True)
    grid = results_grid(rows, confidence=confidence, published=published)
    for i, heading in enumerate(grid.headings):
        table.add_column(heading, justify="right" if i else "left", vertical="bottom", no_wrap=True)
    for cells in grid.rows:
        table.add_row(*map(Text, cells))  # Text: a name is no markup
    console = Console()
    if console.width < WIDTH:  # a narrow terminal may break lines, but no number may be cut short
        console = Console(width=WIDTH)
    console.print(table)
    for note in notes(rows, published):
        console.print(Text(f"  {note}"))
