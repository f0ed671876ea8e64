"""The tables over scorers: what agrees with the truth, by how much more than position alone, and on which tokens."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from cotpress.fidelity.results import FidelityRow, kinds_of
from cotpress.records import Interval


@dataclass(frozen=True, slots=True)
class Grid:
    """A title, a heading per column, and cells."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def plain(self) -> str:
        """Aligned text, ending in a line break."""
        lines = [self.headings, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings))]
        shown = [self.headings, ["-" * w for w in widths], *self.rows]
        return f"{self.title}\n" + "".join(f"{_aligned(line, widths)}\n" for line in shown)

    def markdown(self) -> str:
        """A heading and a Markdown table."""
        ruler = ["---", *["---:"] * (len(self.headings) - 1)]
        lines = [self.headings, ruler, *([c.replace("|", "\\|") for c in row] for row in self.rows)]
        return f"## {self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main_grid(rows: Sequence[FidelityRow], title: str, *, confidence: float) -> Grid:
    """One row per scorer and trivial rule: the main measure, its distance to position, and the other measures.

    Args:
        rows: In table order, at least one.
        title: What is judged.
        confidence: Level of the intervals.
    """
    level = f"[{100 * confidence:g} %]"
    main, *others = _metric_names(rows)
    brief = len(others) > 2  # many further columns show no intervals; results.csv has them
    headings = ("scorer", "reference", "n", f"{main} {level}", f"minus position {level}", "beats position", *others)
    return Grid(title, headings, tuple(_cells(row, others, brief=brief) for row in rows))


def kinds_grid(rows: Sequence[FidelityRow], *, confidence: float | None = None) -> Grid | None:
    """ROC AUC by kind of token; None if tokens have no kinds.

    Args:
        rows: In table order.
        confidence: Level of the intervals; None shows the means alone.
    """
    kinds = kinds_of(rows)
    if not kinds:
        return None
    level = "" if confidence is None else f" [{100 * confidence:g} %]"
    title = (
        f"ROC AUC by kind of token{level}: an essential kind against all redundant tokens, "
        "all essential tokens against a redundant kind"
    )
    cell = _value if confidence is None else _interval
    cells = tuple((row.system, row.reference, *(cell(row.kinds.get(kind)) for kind in kinds)) for row in rows)
    return Grid(title, ("scorer", "reference", *kinds), cells)


def csv_table(rows: Sequence[FidelityRow]) -> str:
    """Every number of the rows, unrounded: one line per row and measure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scorer", "reference", "rule", "measure", "kind", "n", "value", "low", "high"])
    for row in rows:
        measures: list[tuple[str, str, Interval]] = [(name, "", value) for name, value in row.metrics.items()]
        if row.over_position is not None:
            measures.append(("minus position", "", row.over_position))
        measures += [("ROC AUC by kind", kind, value) for kind, value in row.kinds.items()]
        for name, kind, value in measures:
            writer.writerow(
                [row.system, row.reference, row.rule, name, kind, value.n, value.value, value.low, value.high]
            )
    return out.getvalue()


def _metric_names(rows: Sequence[FidelityRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def _cells(row: FidelityRow, others: Sequence[str], *, brief: bool) -> tuple[str, ...]:
    further = [row.metrics.get(name) for name in others]
    return (
        row.system,
        row.reference,
        str(row.main.n),
        _interval(row.main),
        _interval(row.over_position, sign="+"),
        _verdict(row.over_position),
        *(_value(i) if brief else _interval(i) for i in further),
    )


def _verdict(over_position: Interval | None) -> str:
    """Whether the scorer finds more than position alone: only if the whole interval says so."""
    if over_position is None:
        return "-"
    if over_position.low > 0:
        return "yes"
    return "no, worse" if over_position.high < 0 else "no"


def _value(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.3f}"


def _interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return "-"
    value, low, high = (f"{x:{sign}.3f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(padded).rstrip()
