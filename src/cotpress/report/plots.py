"""Accuracy against generated tokens: the picture that a compression is judged by."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.records import Interval, SystemResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: distinguishable with every common colour blindness."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "cotpress",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def pareto_front(rows: Sequence[SystemResult]) -> list[SystemResult]:
    """The rows that no other one beats in both accuracy and generated tokens, from few tokens to many."""
    front: list[SystemResult] = []
    for row in sorted(rows, key=lambda r: (r.mean_tokens.value, -r.accuracy.value)):
        if not front or row.accuracy.value > front[-1].accuracy.value:
            front.append(row)
    return front


def save_plot(rows: Sequence[SystemResult], title: str, stem: Path, *, confidence: float = 0.95) -> list[Path]:
    """Write the plot as `stem`.png and `stem`.svg and return both paths."""
    figure = _draw(rows, title, confidence)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for path in paths:
        path.write_bytes(_rendered(figure, path.suffix[1:]))
    return paths


def svg_plot(rows: Sequence[SystemResult], title: str, *, confidence: float = 0.95) -> str:
    """The plot as an `<svg>` element to stand inside a page."""
    text = _rendered(_draw(rows, title, confidence), "svg").decode()
    return text[text.index("<svg") :]


def _rendered(figure: "Figure", kind: str) -> bytes:
    import matplotlib

    out = io.BytesIO()
    # Without a date in it, the same results give the same file.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(out, format=kind, dpi=160, metadata=metadata)
    return out.getvalue()


def _draw(rows: Sequence[SystemResult], title: str, confidence: float) -> "Figure":
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(8.0, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw_front(axes, rows)
        names = list(dict.fromkeys(row.system for row in rows))
        for i, name in enumerate(n for n in names if not _is_original(n)):
            series = sorted((r for r in rows if r.system == name), key=lambda r: r.target_ratio)
            _draw_series(axes, series, name, COLOURS[i % len(COLOURS)], MARKERS[(i + i // 7) % len(MARKERS)], size=7)
        for name in filter(_is_original, names):
            _draw_series(axes, [r for r in rows if r.system == name], name, "#444444", "*", size=15)
        _label_ratios(axes, [r for r in rows if r.target_ratio < 1])
        axes.set_title(title, loc="left")
        level = f"{100 * confidence:g} % CI"
        axes.set_xlabel(f"generated tokens per answer (mean, {level})")
        axes.set_ylabel(f"accuracy in % ({level})")
        axes.grid(alpha=0.25)
        axes.margins(x=0.08, y=0.1)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return figure


def _is_original(name: str) -> bool:
    return name.lower().startswith("original")


def _draw_series(axes: "Axes", series: Sequence[SystemResult], name: str, colour: str, marker: str, size: int) -> None:
    x, y = _points(series)
    axes.plot(x, y, color=colour, marker=marker, markersize=size, linewidth=1.2, label=name, zorder=3)
    axes.errorbar(
        x, y,
        xerr=_errors([r.mean_tokens for r in series], 1), yerr=_errors([r.accuracy for r in series], 100),
        fmt="none", ecolor=colour, elinewidth=1.0, alpha=0.4, capsize=2, zorder=2,
    )  # fmt: skip


def _draw_front(axes: "Axes", rows: Sequence[SystemResult]) -> None:
    x, y = _points(pareto_front(rows))
    if len(x) > 1:
        axes.step(x, y, where="post", color="#999999", linestyle=":", linewidth=1.5, label="Pareto front", zorder=1)


def _label_ratios(axes: "Axes", rows: Sequence[SystemResult]) -> None:
    from matplotlib.patheffects import withStroke

    for row in rows:
        axes.annotate(
            f"{row.target_ratio:g}",
            (row.mean_tokens.value, 100 * row.accuracy.value),
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=8,
            color="#333333",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=4,
        )


def _points(rows: Sequence[SystemResult]) -> tuple[list[float], list[float]]:
    return [r.mean_tokens.value for r in rows], [100 * r.accuracy.value for r in rows]


def _errors(intervals: Sequence[Interval], scale: float) -> list[list[float]]:
    """Distances below and above, as matplotlib wants them; an open end is not drawn."""
    below = [scale * (i.value - i.low) if math.isfinite(i.low) else 0.0 for i in intervals]
    above = [scale * (i.high - i.value) if math.isfinite(i.high) else 0.0 for i in intervals]
    return [below, above]
