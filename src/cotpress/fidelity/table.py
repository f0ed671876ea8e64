"""Tables over scorers: agreement with the truth, difference from position alone, and agreement by kind of token."""

from collections.abc import Iterator, Sequence

from cotpress.fidelity.results import FidelityRow
from cotpress.records import Interval
from cotpress.store.grid import Grid, csv_text


def main_grid(rows: Sequence[FidelityRow], *, confidence: float) -> Grid:
    """Return one row per scorer and trivial rule: the main measure, its difference from position, the other measures.

    Args:
        rows: In table order, at least one.
        confidence: Level of the intervals.
    """
    level = f"[{100 * confidence:g} %]"
    main, *others = _metric_names(rows)
    brief = len(others) > 2  # many further columns show no intervals; results.csv has them
    headings = ("scorer", "reference", "n", f"{main} {level}", f"minus position {level}", "beats position", *others)
    return Grid(headings, tuple(_cells(row, others, brief=brief) for row in rows))


def kinds_grid(rows: Sequence[FidelityRow], *, confidence: float | None = None) -> Grid | None:
    """Return the ROC AUC by kind of token; None if tokens have no kinds.

    Args:
        rows: In table order.
        confidence: Level of the intervals; None shows the means alone.
    """
    kinds = sorted({kind for row in rows for kind in row.kinds})
    if not kinds:
        return None
    cell = _value if confidence is None else _interval
    cells = tuple((row.system, row.reference, *(cell(row.kinds.get(kind)) for kind in kinds)) for row in rows)
    return Grid(("scorer", "reference", *kinds), cells)


def kinds_title(confidence: float | None = None) -> str:
    """Return the title of `kinds_grid`."""
    level = "" if confidence is None else f" [{100 * confidence:g} %]"
    return (
        f"ROC AUC by kind of token{level}: an essential kind against all redundant tokens, "
        "all essential tokens against a redundant kind"
    )


def csv_table(rows: Sequence[FidelityRow]) -> str:
    """Return every number of the rows, unrounded: one line per row and measure."""

    def lines() -> Iterator[list[object]]:
        for row in rows:
            measures: list[tuple[str, str, Interval]] = [(name, "", value) for name, value in row.metrics.items()]
            if row.over_position is not None:
                measures.append(("minus position", "", row.over_position))
            measures += [("ROC AUC by kind", kind, value) for kind, value in row.kinds.items()]
            for name, kind, i in measures:
                yield [row.system, row.reference, row.rule, name, kind, i.n, i.value, i.low, i.high]

    return csv_text(["scorer", "reference", "rule", "measure", "kind", "n", "value", "low", "high"], lines())


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
    """Compare with position alone, as far as the whole interval is on one side of 0."""
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
