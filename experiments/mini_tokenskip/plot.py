"""Draws plot.png and plot.svg of this folder from its csv files: python plot.py [DIR]."""

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
SIZES = {50: ("#E69F00", "s"), 400: ("#0072B2", "o")}
"""Examples of each ratio: colour and marker."""


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return [r for r in csv.DictReader(handle) if not r["seed"] and r["system"].endswith("(mixed)")]


def _obedience(axes: Axes, size: int, rows: list[dict[str, str]]) -> None:
    """Generated tokens relative to those at ratio 1, by asked ratio."""
    colour, marker = SIZES[size]
    [one] = [float(r["tokens"]) for r in rows if float(r["target_ratio"]) == 1]
    values = [[float(r[name]) / one for r in rows] for name in ("tokens", "tokens_low", "tokens_high")]
    errors = [
        [v - low for v, low in zip(values[0], values[1], strict=True)],
        [high - v for v, high in zip(values[0], values[2], strict=True)],
    ]
    asked = [float(r["target_ratio"]) for r in rows]
    axes.errorbar(asked, values[0], yerr=errors, color=colour, marker=marker, label=f"{size} examples per ratio")


def _accuracy(axes: Axes, size: int, rows: list[dict[str, str]]) -> None:
    colour, marker = SIZES[size]
    value, low, high = ([100 * float(r[name]) for r in rows] for name in ("accuracy", "accuracy_low", "accuracy_high"))
    errors = [[v - x for v, x in zip(value, low, strict=True)], [x - v for v, x in zip(value, high, strict=True)]]
    axes.errorbar([float(r["target_ratio"]) for r in rows], value, yerr=errors, color=colour, marker=marker)


def main(folder: Path) -> None:
    """Write both formats into a folder."""
    with plt.rc_context({"svg.hashsalt": "cotpress", "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
        for size in SIZES:
            rows = _rows(folder / f"examples_{size}.csv")
            _obedience(left, size, rows)
            _accuracy(right, size, rows)
        left.plot([0.5, 1], [0.5, 1], color="#888888", linewidth=1, linestyle=":", label="obedient")
        left.set(xlim=(1.03, 0.47), xlabel="asked ratio", ylabel="generated tokens, relative to ratio 1")
        left.set_title("Does the marker set the length?", loc="left", weight="bold")
        left.legend(frameon=False, fontsize=9)
        right.set(xlim=(1.03, 0.47), ylim=(0, 100), xlabel="asked ratio", ylabel="accuracy, %")
        right.set_title("What it costs", loc="left", weight="bold")
        figure.savefig(folder / "plot.svg", metadata={"Date": None})
        figure.savefig(folder / "plot.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
