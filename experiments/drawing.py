"""Shared parts of the experiments' figures: reading of rows, and the style, which is that of the reports."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cotpress.report.figure import Picture


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a csv file with a header."""
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def lengths(rows: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Error bars as matplotlib takes them, of `(value, low, high)`: all lengths below, all lengths above."""
    return [[value - low for value, low, _ in rows], [high - value for value, _, high in rows]]


def save(
    folder: Path, title: str, size: tuple[float, float], draw: Callable[[Figure], None], name: str = "plot"
) -> None:
    """Draw once and write NAME.png and NAME.svg into a folder; the same rows give the same bytes.

    Args:
        folder: Where they go.
        title: Stands in the file, for those who cannot see the figure.
        size: Width and height in inches.
        draw: Draws into an empty figure.
        name: Stem of both files.
    """
    Picture(name=name, title=title, description=title, size=size, draw=draw).save(folder)
