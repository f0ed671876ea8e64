"""The look of all figures, and their way into files and pages.

A file is black on white. Inside a page the same drawing takes its colours from the page, light or dark, and its text
stays text; a screen reader gets title and description.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A00")
"""Okabe and Ito's palette, distinguishable with every common colour blindness; its yellow darkened to be read on
white. Never the only difference: each colour has a marker of its own."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, FAINT, PAGE = "#222222", "#666666", "#dddddd", "#ffffff"
_VARIABLES = {INK: "--ink", SOFT: "--soft", FAINT: "--line", PAGE: "--figure"} | {
    colour: f"--c{i}" for i, colour in enumerate(COLOURS)
}
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "cotpress",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure that can be drawn.

    Attributes:
        name: Stem of its files.
        title: One line.
        description: What is to be seen, for those who cannot see it.
        size: Width and height in inches.
        draw: Draws into an empty figure.
    """

    name: str
    title: str
    description: str
    size: tuple[float, float]
    draw: Callable[["Figure"], None]


def style(index: int) -> tuple[str, str]:
    """Colour and marker of the series with this number; pairs repeat after 49."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def save(picture: Picture, folder: Path, suffix: str = "") -> list[Path]:
    """Write `NAME+suffix.png` and `.svg`; the same picture gives the same bytes."""
    paths = [folder / f"{picture.name}{suffix}.{kind}" for kind in ("png", "svg")]
    for path in paths:
        path.write_bytes(_rendered(picture, path.suffix[1:]))
    return paths


def inline_svg(picture: Picture, identifier: str) -> str:
    """The picture as an `<svg>` element to stand inside a page.

    Args:
        picture: What to draw.
        identifier: Unique in the page; every id inside begins with it.
    """
    text = _rendered(picture, "svg", {"svg.fonttype": "none"}).decode()
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
        f'<title id="{identifier}-title">{escape(picture.title)}</title>'
        f'<desc id="{identifier}-desc">{escape(picture.description)}</desc>'
    )
    return f"{head} {named}>{described}{body}"


def _rendered(picture: Picture, kind: str, settings: dict[Any, Any] | None = None) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out = io.BytesIO()
    # Without a date in it, the same results give the same file.
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({**_SETTINGS, **(settings or {})}):
        figure = Figure(figsize=picture.size, layout="constrained")
        FigureCanvasAgg(figure)
        picture.draw(figure)
        figure.savefig(out, format=kind, dpi=160, metadata=metadata)
    return out.getvalue()
