"""Draws plot.png and plot.svg from a figures.csv with scoring in it: python -m experiments.speed.plot [CSV [DIR]]."""

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

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
    with path.open(encoding="utf-8", newline="") as handle:
        return [row for row in csv.DictReader(handle) if row["group"] == "scoring"]


def _by_length(axes: Axes, rows: list[dict[str, str]], prefix: str) -> list[ErrorbarContainer]:
    """One line per system: the median at each length, with the lowest and highest repetition."""
    drawn = []
    for system, (colour, marker) in SHOWN.items():
        mine = [row for row in rows if row["name"] == prefix + system]
        if not mine:
            continue
        lengths = [int(row["case"].split()[0]) for row in mine]
        low, mid, high = ([float(row[name]) for row in mine] for name in ("min", "median", "max"))
        errors = [[m - x for m, x in zip(mid, low, strict=True)], [x - m for m, x in zip(mid, high, strict=True)]]
        drawn.append(
            axes.errorbar(lengths, mid, yerr=errors, color=colour, marker=marker, markersize=6, capsize=2, label=system)
        )
    axes.set_xscale("log", base=2)
    ticks = sorted({int(row["case"].split()[0]) for row in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("thinking tokens of a trace")
    return drawn


def main(path: Path, folder: Path) -> None:
    """Write both formats into a folder."""
    rows = _rows(path)
    with plt.rc_context({"svg.hashsalt": "cotpress", "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        _by_length(left, rows, "")
        left.set_ylim(bottom=0)
        left.set_ylabel("thinking tokens per second")
        left.set_title("Speed: median, slowest and fastest repetition", loc="left", weight="bold")
        drawn = _by_length(right, rows, "peak memory, ")
        right.set_yscale("log")
        right.set_yticks([100, 300, 1000, 3000], ["100", "300", "1,000", "3,000"])
        right.set_ylabel("MB above the loaded model")
        right.set_title("Peak memory", loc="left", weight="bold")
        right.legend(handles=drawn, frameon=False, fontsize=9)
        for axes in (left, right):
            axes.minorticks_off()
        figure.savefig(folder / "plot.svg", metadata={"Date": None})
        figure.savefig(folder / "plot.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES, Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
