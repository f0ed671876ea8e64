"""Style of all figures, their output as files and inside pages, and the figures of the results.

Files are black on white. Inside a page the same drawing takes its colours from the page, light or dark, and its text
stays text; title and description are there for screen readers.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.records import Interval, Origin, SystemResult
from cotpress.report.comparison import Comparison
from cotpress.report.palette import INK, ORIGINAL_STYLE, VARIABLES, styles
from cotpress.store.artifacts import replaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOFT, FAINT, PAGE = "#666666", "#dddddd", "#ffffff"
_VARIABLES = {INK: "--ink", SOFT: "--soft", FAINT: "--line", PAGE: "--figure"} | {
    light: name for name, (light, _) in VARIABLES.items()
}
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "cotpress",
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may contain dollar signs
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
    "hatch.linewidth": 0.6,
}


PICTURE_WIDTH = 6.4
"""Inches; text of 10 points can then be read on a page of a phone's width."""


def legend_size(labels: Sequence[str]) -> tuple[int, float]:
    """Return the number of columns of a legend below a figure, and its height in inches."""
    longest = max(map(len, labels), default=0)
    columns = 3 if longest <= 20 else 2 if longest <= 36 else 1
    return columns, 0.1 + 0.21 * math.ceil(len(labels) / columns)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, drawn and laid out once for files and page; equal pictures give equal bytes.

    Attributes:
        name: Stem of its files.
        description: Content of the figure in words, for screen readers.
        size: Width and height in inches.
        draw: Function that draws into an empty figure.
        caption: Text below the figure in a page.
    """

    name: str
    title: str
    description: str
    size: tuple[float, float]
    draw: Callable[["Figure"], None]
    caption: str = ""

    def save(self, folder: Path) -> list[Path]:
        """Write `NAME.png` and `NAME.svg`."""
        png, svg = (folder / f"{self.name}.{kind}" for kind in ("png", "svg"))
        for path, content in ((png, self._rendered("png")), (svg, self._svg)):
            with replaced(path) as temporary:
                temporary.write_bytes(content)
        return [png, svg]

    def inline_svg(self, identifier: str) -> str:
        """Return the picture as an `<svg>` element for a page, with a prefix of every id that is unique there."""
        text = self._svg.decode()
        text = text[text.index("<svg") :].strip()
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{identifier}-", text)
        text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
        for colour, variable in _VARIABLES.items():
            text = re.sub(rf"{colour}\b", f"var({variable})", text, flags=re.IGNORECASE)
        head, _, body = text.partition(">")
        head = re.sub(r' (?:width|height)="[^"]*"', "", head)
        named = f'role="img" aria-labelledby="{identifier}-title {identifier}-desc"'
        described = (
            f'<title id="{identifier}-title">{escape(self.title)}</title>'
            f'<desc id="{identifier}-desc">{escape(self.description)}</desc>'
        )
        return f"{head} {named}>{described}{body}"

    @cached_property
    def _figure(self) -> "Figure":
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with matplotlib.rc_context(_SETTINGS):
            figure = Figure(figsize=self.size, layout="constrained")
            FigureCanvasAgg(figure)
            self.draw(figure)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # the layout is final
        return figure

    @cached_property
    def _svg(self) -> bytes:
        return self._rendered("svg")

    def _rendered(self, kind: str) -> bytes:
        import matplotlib

        out = io.BytesIO()
        # No date, so that equal results give equal files.
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure = self._figure
        with matplotlib.rc_context(_SETTINGS):
            figure.savefig(out, format=kind, dpi=160, metadata=metadata)
        return out.getvalue()


def pareto_front(rows: Sequence[SystemResult], chance: float = 0.0) -> list[SystemResult]:
    """Return the rows on the Pareto front, from few generated tokens to many.

    A row is on it unless another one has at least its accuracy with at most its tokens, and is better in one of them.
    So of rows with equal accuracy and tokens all are on it, or none. Short answers alone put no row on it: rows take
    no part whose interval of the accuracy lies wholly below that of Original (of each, if there are several), or
    reaches down to `chance`, the accuracy of guessing.
    """
    lowest = min((r.accuracy.low for r in rows if r.source.origin is Origin.original), default=0.0)
    able = [r for r in rows if r.accuracy.high >= lowest and r.accuracy.low > chance]

    def place(row: SystemResult) -> tuple[float, float]:
        return row.mean_tokens.value, -row.accuracy.value

    front: list[SystemResult] = []
    for row in sorted(able, key=place):
        if not front or row.accuracy.value > front[-1].accuracy.value or place(row) == place(front[-1]):
            front.append(row)
    return front


PARETO = "Pareto front"


def accuracy_picture(comparison: Comparison, suffix: str = "") -> Picture:
    """Plot accuracy against generated tokens, with intervals and the Pareto front."""
    rows, level = comparison.rows, f"{100 * comparison.confidence:g} % CI"
    columns, height = legend_size([name for name, *_ in _systems(rows)] + [PARETO])
    front = pareto_front(rows, comparison.chance)
    named = ", ".join(
        f"{r.system}{'' if r.target_ratio == 1 else f' at {r.target_ratio:g}'}: "
        f"{100 * r.accuracy.value:.1f} % at {r.mean_tokens.value:.0f} tokens"
        for r in front
    )

    def draw(figure: "Figure") -> None:
        from matplotlib.patheffects import withStroke

        axes = figure.add_subplot()
        x, y = _points(front)
        if len(x) > 1:
            axes.step(x, y, where="post", color=SOFT, linestyle=":", linewidth=1.5, label=PARETO, zorder=1)
        for name, series, colour, marker, size in _systems(rows):
            x, y = _points(series)
            axes.plot(x, y, color=colour, marker=marker, markersize=size, linewidth=1.4, label=name, zorder=3)
            axes.errorbar(
                x, y,
                xerr=_errors([r.mean_tokens for r in series], 1), yerr=_errors([r.accuracy for r in series], 100),
                fmt="none", ecolor=colour, elinewidth=1.0, alpha=0.45, capsize=2, zorder=2,
            )  # fmt: skip
        outline = [withStroke(linewidth=2.5, foreground=PAGE)]
        for row in (r for r in rows if r.target_ratio < 1):
            axes.annotate(
                f"{row.target_ratio:g}", (row.mean_tokens.value, 100 * row.accuracy.value), xytext=(6, -11),
                textcoords="offset points", fontsize=8, color=INK, path_effects=outline, zorder=4,
            )  # fmt: skip
        xlabel, ylabel = f"generated tokens per answer (mean, {level})", f"accuracy in % ({level})"
        axes.set(title=comparison.title, xlabel=xlabel, ylabel=ylabel)
        axes.margins(x=0.08, y=0.1)
        figure.legend(loc="outside lower center", ncols=columns, fontsize=9)

    return Picture(
        name=f"plot{suffix}",
        title=f"{comparison.title}: accuracy against generated tokens",
        description=f"Each point is a student at an asked ratio. On the Pareto front: {named or 'none'}.",
        size=(PICTURE_WIDTH, 4.2 + height),
        draw=draw,
        caption="Up and to the left is better. Bars are intervals, numbers at the points the asked ratio. The Pareto "
        "front leaves out what is less accurate than Original beyond the intervals.",
    )


def ratio_picture(comparison: Comparison, suffix: str = "") -> Picture | None:
    """Plot the requested against the actual ratio of training data and answers; None without a compressed student."""
    shown = [r for r in comparison.rows if r.actual_ratio is not None or r.generated_ratio is not None]
    compressed = [r for r in shown if r.target_ratio < 1]
    if not compressed:
        return None
    lines = {"as asked", *(f"{r.system}: written" for r in compressed if r.generated_ratio is not None)}
    lines |= {f"{r.system}: kept" for r in compressed if r.actual_ratio is not None}
    columns, height = legend_size(sorted(lines))
    texts = (
        f"{r.system} asked {r.target_ratio:g}, kept {_number(r.actual_ratio)}, wrote {_number(r.generated_ratio)}"
        for r in compressed
    )

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        lowest = min(r.target_ratio for r in shown)
        axes.plot([lowest, 1], [lowest, 1], color=SOFT, linestyle=":", linewidth=1.5, label="as asked", zorder=1)
        for name, series, colour, marker, size in _systems(shown):
            if all(r.target_ratio >= 1 for r in series):
                continue
            kept = [(r.target_ratio, r.actual_ratio) for r in series if r.actual_ratio is not None]
            wrote = [(r.target_ratio, r.generated_ratio) for r in series if r.generated_ratio is not None]
            look: dict[str, Any] = {"color": colour, "marker": marker}
            if wrote:
                axes.plot(*zip(*wrote, strict=True), **look, markersize=size, linewidth=1.4, label=f"{name}: written")
            if kept:
                look |= {"markerfacecolor": "none", "linestyle": "--"}
                label = f"{name}: kept"
                axes.plot(*zip(*kept, strict=True), **look, markersize=size + 3, linewidth=1, label=label, zorder=2)
        axes.set(title=comparison.title, xlabel="asked ratio", ylabel="actual ratio")
        axes.margins(0.08)
        figure.legend(loc="outside lower center", ncols=columns, fontsize=9)

    return Picture(
        name=f"ratios{suffix}",
        title=f"{comparison.title}: asked against actual ratio",
        description=f"On the diagonal, students get what was asked for. {'; '.join(texts)}.",
        size=(PICTURE_WIDTH, 4.2 + height),
        draw=draw,
        caption="Filled: generated tokens relative to those without compression. "
        "Open: thinking tokens kept in training.",
    )


def _systems(rows: Sequence[SystemResult]) -> list[tuple[str, list[SystemResult], str, str, float]]:
    """Return label, rows by ratio, colour, marker and marker size of every system, Original last and thus on top."""
    by_name: dict[str, list[SystemResult]] = {}
    for row in sorted(rows, key=lambda r: r.target_ratio):
        by_name.setdefault(row.source.label, []).append(row)
    # Scorers first, so that each has the same colour here and in the token viewer.
    compressed = {row.system for row in rows if row.is_compressed}
    ordered = sorted(rows, key=lambda row: row.system not in compressed)
    looks = styles(row.source for row in ordered)
    drawn = [
        (name, series, look.colour, look.marker, 14.0 if look is ORIGINAL_STYLE else 7.0)
        for name, look in looks.items()
        if (series := by_name[name])
    ]
    return sorted(drawn, key=lambda system: system[-1])


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _points(rows: Sequence[SystemResult]) -> tuple[list[float], list[float]]:
    return [r.mean_tokens.value for r in rows], [100 * r.accuracy.value for r in rows]


def _errors(intervals: Sequence[Interval], scale: float) -> list[list[float]]:
    """Return the distances below and above, in matplotlib's form; an open end is not drawn."""
    below = [scale * (i.value - i.low) if math.isfinite(i.low) else 0.0 for i in intervals]
    above = [scale * (i.high - i.value) if math.isfinite(i.high) else 0.0 for i in intervals]
    return [below, above]
