"""The results table: rich on a terminal, aligned plain text anywhere else, Markdown for documents, CSV for the rest.

Whether students obey the ratio: longer answers for larger ratios, and none longer than without compression.

The CTS paper prints students that write longer and longer as the ratio falls, and nobody sees it in a list of
accuracies; these sentences stand below every table of several ratios.
"""

import csv
import io
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cotpress.records import Interval, SystemResult
from cotpress.report.columns import Column, columns, shorten
from cotpress.report.published import Lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class Monotonicity:
    """How the generated tokens of one system follow the asked ratio.

    Attributes:
        system: Name of the rows.
        num_pairs: Pairs of rows with different ratios.
        violations: Pairs (row of the lower ratio, row of the higher ratio) where the lower one writes more.
    """

    system: str
    num_pairs: int
    violations: tuple[tuple[SystemResult, SystemResult], ...]


def monotonicity(rows: Sequence[SystemResult]) -> list[Monotonicity]:
    """One verdict per system that has rows at several ratios, in the rows' order.

    A student with a control marker and students of a single ratio are different systems, also under one name.
    """
    found = []
    for name, against in dict.fromkeys((row.system, row.generated_against) for row in rows):
        series = [r for r in rows if (r.system, r.generated_against) == (name, against)]
        series.sort(key=lambda r: r.target_ratio)
        pairs = [(a, b) for a, b in itertools.combinations(series, 2) if a.target_ratio < b.target_ratio]
        wrong = tuple((a, b) for a, b in pairs if a.mean_tokens.value > b.mean_tokens.value)
        if pairs:
            found.append(Monotonicity(system=name, num_pairs=len(pairs), violations=wrong))
    return found


def control_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Sentences about students that got longer and about the order of the ratios, for below a table."""
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
"""Characters that a line of the table fits in."""
_SHORTEST_NAME = 6

_SCALARS = (
    "target_ratio", "actual_ratio", "generated_ratio", "generated_against", "generated_thinking_ratio", "num_samples",
    "standard_error", "training_reduction", "inference_reduction", "truncation_rate", "loop_rate", "unclosed_rate",
    "mean_thinking_tokens", "mean_answer_tokens", "seconds_per_sample", "num_training_rows",
)  # fmt: skip
_INTERVALS = ("accuracy", "mean_tokens", "accuracy_difference", "mean_reference_tokens")


def notes(rows: Sequence[SystemResult], published: Lookup | None = None) -> list[str]:
    """Sentences for below the table: who got longer, who disobeys the ratio, who learnt from fewer traces than others,
    where published numbers come from."""
    found = [p for r in rows if published is not None and (p := published(r)) is not None]
    sources = [f"{p.source}, accuracy % @ tokens, no interval" for p in found]
    remarks = [p.note for p in found if p.note]
    texts = (f"published: {text}" for text in dict.fromkeys([*sources, *remarks]))
    return [*control_notes(rows), *_training_notes(rows), *texts]


def _training_notes(rows: Sequence[SystemResult]) -> list[str]:
    """How many traces each student learnt from, if they are not equally many: then more than the cut differs."""
    trained = [row for row in rows if row.num_training_rows is not None]
    numbers = sorted({row.num_training_rows or 0 for row in trained}, reverse=True)
    if len(numbers) < 2:
        return []
    told = []
    for number in numbers:
        others = {row.system for row in trained if row.num_training_rows != number}
        own = [row for row in trained if row.num_training_rows == number]
        names = (f"{r.system} at {r.target_ratio:g}" if r.system in others else r.system for r in own)
        told.append(f"{number} ({', '.join(dict.fromkeys(names))})")
    return [f"students learnt from different numbers of traces: {', '.join(told)}"]


def plain_table(
    rows: Sequence[SystemResult], title: str = "", *, confidence: float = 0.95, published: Lookup | None = None
) -> str:
    """The table as aligned text of at most 120 characters a line, notes below it; ends in a line break."""
    shown = columns(confidence, rows, published)
    headings = [[column.heading[line] for column in shown] for line in (0, 1)]
    cells = [[column.cell(row) for column in shown] for row in rows]
    widths = [max(len(line[i]) for line in [*headings, *cells]) for i in range(len(shown))]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
    over = sum(widths) + gap * (len(widths) - 1) - WIDTH
    if over > 0:  # the names give way, never a number
        widths[0] = max(widths[0] - over, _SHORTEST_NAME)
        cells = [[shorten(line[0], widths[0]), *line[1:]] for line in cells]
    rule = ["-" * width for width in widths]
    lines = [_aligned(line, widths, " " * gap) for line in [*headings, rule, *cells]]
    below = [f"  {note}" for note in notes(rows, published)]
    return "\n".join([*([title] if title else []), *lines, *below]) + "\n"


def markdown_table(rows: Sequence[SystemResult], *, confidence: float = 0.95, published: Lookup | None = None) -> str:
    """The table as Markdown, its notes as a list below it."""
    shown = columns(confidence, rows, published)
    lines = [[column.name for column in shown]]
    lines += [["---"] + ["---:"] * (len(shown) - 1)]
    lines += [[markdown_cell(column.cell(row)) for column in shown] for row in rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    below = "".join(f"- {note}\n" for note in notes(rows, published))
    return table + (f"\n{below}" if below else "")


def markdown_cell(text: str) -> str:
    """A text inside a Markdown table: no column, no line and no HTML of its own."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def csv_table(rows: Sequence[SystemResult], *, published: Lookup | None = None) -> str:
    """Every number of the rows, unrounded, as CSV; fractions in [0, 1], published accuracy in percent as printed."""
    most = max((len(row.pass_at_k) for row in rows), default=0)
    budgets = sorted({b.budget for row in rows for b in row.accuracy_at_budgets})
    named = [*_INTERVALS, *(f"pass_at_{k}" for k in range(2, most + 1)), *(f"accuracy_at_{b}_tokens" for b in budgets)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{name}{suffix}" for name in named for suffix in ("", "_low", "_high")]
    writer.writerow(["system", "n", *_SCALARS, *ends, "published_accuracy", "published_tokens", "published_source"])
    for row in rows:
        at = {b.budget: b.accuracy for b in row.accuracy_at_budgets}
        intervals: list[Interval | None] = [getattr(row, name) for name in _INTERVALS]
        intervals += [row.pass_at_k[k - 1] if k <= len(row.pass_at_k) else None for k in range(2, most + 1)]
        intervals += [at.get(b) for b in budgets]
        numbers = [x for i in intervals for x in ((None,) * 3 if i is None else (i.value, i.low, i.high))]
        paper = published(row) if published is not None else None
        printed = (None,) * 3 if paper is None else (paper.accuracy, paper.tokens, paper.source)
        writer.writerow([row.system, row.accuracy.n, *(getattr(row, s) for s in _SCALARS), *numbers, *printed])
    return out.getvalue()


def show(
    rows: Sequence[SystemResult], title: str, *, confidence: float = 0.95, published: Lookup | None = None
) -> None:
    """Write the table to standard output: with colours and lines on a terminal, else as plain text."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain_table(rows, title, confidence=confidence, published=published) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True)
    shown: list[Column] = columns(confidence, rows, published)
    for i, column in enumerate(shown):
        heading = "\n".join(column.heading)
        table.add_column(heading, justify="right" if i else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in shown))  # Text: a name is no markup
    console = Console()
    if console.width < WIDTH:  # a narrow terminal may break lines, but no number may be cut short
        console = Console(width=WIDTH)
    console.print(table)
    for note in notes(rows, published):
        console.print(Text(f"  {note}"))


def _aligned(cells: Sequence[str], widths: Sequence[int], gap: str) -> str:
    padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return gap.join(padded).rstrip()
