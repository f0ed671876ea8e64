"""What the columns of the results table say, and the details that do not fit into it.

Every accuracy stands with its interval and its n; ratios are asked / kept in training / generated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cotpress.records import Interval, SystemResult
from cotpress.report.published import Lookup

NAME_WIDTH = 20
"""Longest shown system name."""
LONGER = "^"
"""Marks the generated ratio of a student that writes more than what it is compared with."""


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
    Column(("ratio: asked/", "actual/written"), lambda r: ratios(r)),
    Column(("accuracy %", "[{level} CI]"), lambda r: percent_interval(r.accuracy)),
    Column(("", "n"), lambda r: f"{r.accuracy.n}x{r.num_samples}" if r.num_samples > 1 else str(r.accuracy.n)),
    Column(("vs Original,", "points [CI]"), lambda r: difference(r.accuracy_difference)),
    Column(("generated", "tokens [CI]"), lambda r: count_interval(r.mean_tokens)),
    Column(("cut off/", "loops %"), lambda r: f"{_percent(r.truncation_rate)}/{_percent(r.loop_rate)}"),
    Column(("s per", "answer"), lambda r: _seconds(r.seconds_per_sample)),
)

_DETAILS = (
    Column(("", "System"), lambda r: shorten(r.system)),
    Column(("asked", "ratio"), lambda r: f"{r.target_ratio:g}"),
    Column(("standard", "error"), lambda r: "-" if r.standard_error is None else f"{100 * r.standard_error:.2f}"),
    Column(("training", "tokens"), lambda r: change(r.training_reduction)),
    Column(("tokens vs", "Original"), lambda r: change(r.inference_reduction)),
    Column(("generated", "ratio vs"), lambda r: r.generated_against or "-"),
    Column(("thinking", "ratio"), lambda r: _ratio(r.generated_thinking_ratio)),
    Column(("thinking", "tokens"), lambda r: _count(r.mean_thinking_tokens)),
    Column(("answer", "tokens"), lambda r: _count(r.mean_answer_tokens)),
    Column(("unclosed", "%"), lambda r: _percent(r.unclosed_rate)),
)


def columns(confidence: float, rows: Sequence[SystemResult] = (), published: Lookup | None = None) -> list[Column]:
    """The columns of the main table, with the level of the intervals in the heading.

    Args:
        confidence: Level of the intervals, in (0, 1).
        rows: The rows to be shown.
        published: Published counterparts; their column is left out where no row has one.
    """
    level = f"{100 * confidence:g} %"
    shown = [replace(c, heading=(c.heading[0], c.heading[1].format(level=level))) for c in _COLUMNS]
    if published is not None and any(map(published, rows)):
        shown.append(Column(("", "published"), lambda r: found.cell if (found := published(r)) else "-"))
    return shown


def page_columns(confidence: float, rows: Sequence[SystemResult], published: Lookup) -> list[Column]:
    """The columns of the main table in a page, where published numbers have room beside the measured ones."""
    shown = columns(confidence)
    if not any(map(published, rows)):
        return shown
    accuracy = Column(("accuracy %", "published"), lambda r: f"{float(p.accuracy):.1f}" if (p := published(r)) else "-")
    tokens = Column(("tokens", "published"), lambda r: f"{float(p.tokens):.0f}" if (p := published(r)) else "-")
    after = {"accuracy": accuracy, "generated": tokens}
    return [c for column in shown for c in (column, after.get(column.heading[0].split(" ")[0])) if c is not None]


def detail_columns(rows: Sequence[SystemResult]) -> list[Column]:
    """The columns of the second table of a page: what is behind the main one, as far as any row has it."""
    shown = list(_DETAILS)
    if any(r.mean_reference_tokens for r in rows):
        shown.append(Column(("reference", "tokens [CI]"), lambda r: count_interval(r.mean_reference_tokens)))
    for k in range(2, max((len(r.pass_at_k) for r in rows), default=0) + 1):
        if k & (k - 1) == 0 or k == max(len(r.pass_at_k) for r in rows):  # powers of two and the last
            shown.append(Column((f"pass@{k} %", "[CI]"), _pass_cell(k)))
    for budget in sorted({b.budget for r in rows for b in r.accuracy_at_budgets}):
        shown.append(Column(("accuracy % at", f"{budget} tokens"), _budget_cell(budget)))
    return shown


def _pass_cell(k: int) -> Callable[[SystemResult], str]:
    return lambda r: percent_interval(r.pass_at_k[k - 1]) if len(r.pass_at_k) >= k else "-"


def _budget_cell(budget: int) -> Callable[[SystemResult], str]:
    return lambda r: next((percent_interval(b.accuracy) for b in r.accuracy_at_budgets if b.budget == budget), "-")


def shorten(name: str, width: int = NAME_WIDTH) -> str:
    """`name` with its middle left out if it is too long for the table."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[-(width - 1 - head) :]}"


def ratios(row: SystemResult) -> str:
    """`0.5/0.52/0.61`: asked, kept in training, generated; `^` if the student writes more than uncompressed."""
    written = _ratio(row.generated_ratio) + (LONGER if row.lengthened and row.target_ratio < 1 else "")
    return f"{row.target_ratio:g}/{_ratio(row.actual_ratio)}/{written}"


def percent_interval(interval: Interval) -> str:
    """`85.9 [80.1, 90.2]`, in percent."""
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def difference(interval: Interval | None) -> str:
    """`-2.1 [-4.0, -0.3]`, in percentage points; `-` where there is nothing to compare with."""
    if interval is None:
        return "-"
    value, low, high = (
        f"{100 * x:+.1f}".replace("-0.0", "+0.0") for x in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"


def count_interval(interval: Interval | None) -> str:
    """`157 [150, 164]`; one decimal below 100, where a whole number would hide a difference."""
    if interval is None:
        return "-"
    digits = 1 if interval.value < 100 else 0
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def change(reduction: float | None) -> str:
    """A reduction as a change: 0.42 is `-42.0 %`; `-` where it is not known."""
    if reduction is None:
        return "-"
    return f"{-100 * reduction:+.1f} %".replace("+0.0", "0.0").replace("-0.0", "0.0")


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "100" if share == 1 else f"{100 * share:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
