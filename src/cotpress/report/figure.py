"""Style of all figures, and their output as files and inside pages.

Files are black on white. Inside a page the same drawing takes its colours from the page, light or dark, and its text
stays text; title and description are there for screen readers.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A00")
"""Okabe and Ito's palette, distinguishable with every common colour blindness, with a darker yellow for white paper.
Each colour goes with a marker of its own."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, FAINT, PAGE = "#222222", "#666666", "#dddddd", "#ffffff"
_VARIABLES = {INK: "--ink", SOFT: "--soft", FAINT: "--line", PAGE: "--figure"} | {
    colour: f"--c{i}" for i, colour in enumerate(COLOURS)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure to be drawn.

    Attributes:
        name: Stem of its files.
        title: One line.
        description: Content of the figure in words, for screen readers.
        size: Width and height in inches.
        draw: Function that draws into an empty figure.
    """

    name: str
    title: str
    description: str
    size: tuple[float, float]
    draw: Callable[["Figure"], None]


def style(index: int) -> tuple[str, str]:
    """Return colour and marker of the series with this number; pairs repeat after 49."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


class Drawing:
    """A picture, drawn and laid out once for files and page; equal pictures give equal bytes."""

    def __init__(self, picture: Picture) -> None:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._picture = picture
        with matplotlib.rc_context(_SETTINGS):
            self._figure = Figure(figsize=picture.size, layout="constrained")
            FigureCanvasAgg(self._figure)
            picture.draw(self._figure)
            self._figure.draw_without_rendering()
            self._figure.set_layout_engine("none")  # the layout is final

    def save(self, folder: Path, suffix: str = "") -> list[Path]:
        """Write `NAME+suffix.png` and `.svg`."""
        png, svg = (folder / f"{self._picture.name}{suffix}.{kind}" for kind in ("png", "svg"))
        png.write_bytes(self._rendered("png"))
        svg.write_bytes(self._svg)
        return [png, svg]

    def inline_svg(self, identifier: str) -> str:
        """Return the picture as an `<svg>` element for a page.

        Args:
            identifier: Prefix of every id inside, unique in the page.
        """
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
            f'<title id="{identifier}-title">{escape(self._picture.title)}</title>'
            f'<desc id="{identifier}-desc">{escape(self._picture.description)}</desc>'
        )
        return f"{head} {named}>{described}{body}"

    @cached_property
    def _svg(self) -> bytes:
        return self._rendered("svg")

    def _rendered(self, kind: str) -> bytes:
        import matplotlib

        out = io.BytesIO()
        # No date, so that equal results give equal files.
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with matplotlib.rc_context(_SETTINGS):
            self._figure.savefig(out, format=kind, dpi=160, metadata=metadata)
        return out.getvalue()
