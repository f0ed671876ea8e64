"""Figures of the results: accuracy against generated tokens, and actual against requested ratio."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cotpress.records import Interval, Origin, SystemResult
from cotpress.report.figure import INK, PAGE, SOFT, Picture, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pareto_front(rows: Sequence[SystemResult]) -> list[SystemResult]:
    """Return the rows that no other row exceeds in both accuracy and brevity, from few generated tokens to many."""
    front: list[SystemResult] = []
    for row in sorted(rows, key=lambda r: (r.mean_tokens.value, -r.accuracy.value)):
        if not front or row.accuracy.value > front[-1].accuracy.value:
            front.append(row)
    return front


def accuracy_picture(rows: Sequence[SystemResult], title: str, *, confidence: float = 0.95) -> Picture:
    """Plot accuracy against generated tokens, with intervals and the Pareto front."""
    front = ", ".join(
        f"{_named(r)}: {100 * r.accuracy.value:.1f} % at {r.mean_tokens.value:.0f} tokens" for r in pareto_front(rows)
    )
    return Picture(
        name="plot",
        title=f"{title}: accuracy against generated tokens",
        description=f"Each point is a student at an asked ratio. On the Pareto front: {front}.",
        size=(8.0, 4.8),
        draw=lambda figure: _draw_accuracy(figure, rows, title, confidence),
    )


def ratio_picture(rows: Sequence[SystemResult], title: str) -> Picture | None:
    """Plot the requested against the actual ratio of training data and answers; None without a compressed student."""
    shown = [r for r in rows if r.actual_ratio is not None or r.generated_ratio is not None]
    if not any(r.target_ratio < 1 for r in shown):
        return None
    texts = [
        f"{r.system} asked {r.target_ratio:g}, kept {_number(r.actual_ratio)}, wrote {_number(r.generated_ratio)}"
        for r in shown
        if r.target_ratio < 1
    ]
    return Picture(
        name="ratios",
        title=f"{title}: asked against actual ratio",
        description=f"On the diagonal, students get what was asked for. {'; '.join(texts)}.",
        size=(8.0, 4.4),
        draw=lambda figure: _draw_ratios(figure, shown, title),
    )


def _draw_accuracy(figure: "Figure", rows: Sequence[SystemResult], title: str, confidence: float) -> None:
    axes = figure.add_subplot()
    x, y = _points(pareto_front(rows))
    if len(x) > 1:
        axes.step(x, y, where="post", color=SOFT, linestyle=":", linewidth=1.5, label="Pareto front", zorder=1)
    for name, colour, marker, size in _systems(rows):
        series = sorted((r for r in rows if r.system == name), key=lambda r: r.target_ratio)
        _draw_series(axes, series, name, colour, marker, size)
    _label_ratios(axes, [r for r in rows if r.target_ratio < 1])
    axes.set_title(title)
    level = f"{100 * confidence:g} % CI"
    axes.set_xlabel(f"generated tokens per answer (mean, {level})")
    axes.set_ylabel(f"accuracy in % ({level})")
    axes.margins(x=0.08, y=0.1)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _draw_ratios(figure: "Figure", rows: Sequence[SystemResult], title: str) -> None:
    axes = figure.add_subplot()
    lowest = min(r.target_ratio for r in rows)
    axes.plot([lowest, 1], [lowest, 1], color=SOFT, linestyle=":", linewidth=1.5, label="as asked", zorder=1)
    asked_for_less = {r.system for r in rows if r.target_ratio < 1}
    for name, colour, marker, size in _systems(rows):
        series = sorted((r for r in rows if r.system == name), key=lambda r: r.target_ratio)
        kept = [(r.target_ratio, r.actual_ratio) for r in series if r.actual_ratio is not None]
        wrote = [(r.target_ratio, r.generated_ratio) for r in series if r.generated_ratio is not None]
        look: dict[str, Any] = {"color": colour, "marker": marker}
        if wrote and name in asked_for_less:
            axes.plot(*_columns(wrote), **look, markersize=size, linewidth=1.4, label=f"{name}: written")
        if kept and name in asked_for_less:
            look |= {"markerfacecolor": "none", "linestyle": "--"}
            label = f"{name}: kept for training"
            axes.plot(*_columns(kept), **look, markersize=size + 3, linewidth=1, label=label, zorder=2)
    axes.set_title(title)
    axes.set_xlabel("asked ratio")
    axes.set_ylabel("actual ratio")
    axes.margins(0.08)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _systems(rows: Sequence[SystemResult]) -> list[tuple[str, str, str, float]]:
    """Return label, colour, marker and marker size of every system; Original last, so that it is drawn on top."""
    compressed = {row.system for row in rows if row.target_ratio < 1}
    # Scorers first, so that each has the same colour here and in the token viewer.
    names = sorted(dict.fromkeys(row.system for row in rows), key=lambda name: name not in compressed)
    originals = {row.system for row in rows if row.source.origin is Origin.original}
    usual = [(name, *style(i), 7.0) for i, name in enumerate(n for n in names if n not in originals)]
    return [*usual, *((name, INK, "*", 14.0) for name in names if name in originals)]


def _draw_series(
    axes: "Axes", series: Sequence[SystemResult], name: str, colour: str, marker: str, size: float
) -> None:
    x, y = _points(series)
    axes.plot(x, y, color=colour, marker=marker, markersize=size, linewidth=1.4, label=name, zorder=3)
    axes.errorbar(
        x, y,
        xerr=_errors([r.mean_tokens for r in series], 1), yerr=_errors([r.accuracy for r in series], 100),
        fmt="none", ecolor=colour, elinewidth=1.0, alpha=0.45, capsize=2, zorder=2,
    )  # fmt: skip


def _label_ratios(axes: "Axes", rows: Sequence[SystemResult]) -> None:
    from matplotlib.patheffects import withStroke

    for row in rows:
        axes.annotate(
            f"{row.target_ratio:g}",
            (row.mean_tokens.value, 100 * row.accuracy.value),
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            path_effects=[withStroke(linewidth=2.5, foreground=PAGE)],
            zorder=4,
        )


def _named(row: SystemResult) -> str:
    return row.system if row.target_ratio == 1 else f"{row.system} at {row.target_ratio:g}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _points(rows: Sequence[SystemResult]) -> tuple[list[float], list[float]]:
    return [r.mean_tokens.value for r in rows], [100 * r.accuracy.value for r in rows]


def _errors(intervals: Sequence[Interval], scale: float) -> list[list[float]]:
    """Return the distances below and above, in matplotlib's form; an open end is not drawn."""
    below = [scale * (i.value - i.low) if math.isfinite(i.low) else 0.0 for i in intervals]
    above = [scale * (i.high - i.value) if math.isfinite(i.high) else 0.0 for i in intervals]
    return [below, above]
