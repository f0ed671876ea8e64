"""Draws plot.png and plot.svg from a figures.csv with scoring in it: python -m experiments.speed.plot [CSV [DIR]]."""

import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent
FIGURES = HERE / "results" / "scoring_bfloat16" / "figures.csv"
SHOWN = {
    "cotpress (best)": ("#009E73", "D"),
    "limit": ("#888888", "_"),
    "cotpress": ("#0072B2", "o"),
    "naive": ("#E69F00", "s"),
    "release": ("#D55E00", "^"),
}
"""Systems with colour and marker."""


def _rows(path: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(path) if row["group"] == "scoring"]


def _by_length(axes: Axes, rows: list[dict[str, str]], prefix: str) -> list[ErrorbarContainer]:
    """One line per system: the median at each length, with the lowest and highest repetition."""
    drawn = []
    for system, (colour, marker) in SHOWN.items():
        mine = [row for row in rows if row["name"] == prefix + system]
        if not mine:
            continue
        tokens = [int(row["case"].split()[0]) for row in mine]
        points = [(float(row["median"]), float(row["min"]), float(row["max"])) for row in mine]
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6, "capsize": 2, "label": system}
        drawn.append(axes.errorbar(tokens, [p[0] for p in points], yerr=lengths(points), **look))
    axes.set_xscale("log", base=2)
    ticks = sorted({int(row["case"].split()[0]) for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("thinking tokens of a trace")
    return drawn


def main(path: Path, folder: Path) -> None:
    """Draw one csv file into a folder."""
    rows = _rows(path)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        _by_length(left, rows, "")
        left.set_ylim(bottom=0)
        left.set_ylabel("thinking tokens per second")
        left.set_title("Speed: median, slowest and fastest repetition")
        drawn = _by_length(right, rows, "peak memory, ")
        right.set_yscale("log")
        right.set_yticks([100, 300, 1000, 3000], ["100", "300", "1,000", "3,000"])
        right.set_ylabel("MB above the loaded model")
        right.set_title("Peak memory")
        right.legend(handles=drawn, fontsize=9)
        for axes in (left, right):
            axes.minorticks_off()

    save(folder, "Speed and peak memory of scoring by the length of the thinking", (11, 4.4), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES, Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
