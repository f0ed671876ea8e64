"""Draws plot.png and plot.svg of this folder from table-seeds.csv and the fidelity table: python plot.py [DIR]."""

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
TRUTH = HERE.parent / "scorer_fidelity" / "planted.csv"
SHOWN = {  # system: (colour, marker, scorer and reference model in the fidelity table)
    "reference_walk": ("#D55E00", "D", ("reference_walk unit=word max_surprise=2.0", "lora")),
    "tokenskip": ("#009E73", "^", ("tokenskip", "-")),
    "reference_likelihood": ("#CC79A7", "v", ("reference_likelihood pooling=word", "lora")),
    "cts": ("#0072B2", "o", ("cts condition=answer pooling=token", "lora")),
    "llmlingua": ("#E69F00", "X", ("llmlingua", "lora")),
    "random": ("#666666", "s", ("random", "-")),
}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _interval(row: dict[str, str], name: str) -> tuple[float, float, float]:
    """A value with the lengths of its interval below and above, in percent."""
    value, low, high = (100 * float(row[name + end]) for end in ("", "_low", "_high"))
    return value, value - low, high - value


def _by_ratio(axes: Axes, rows: list[dict[str, str]]) -> None:
    [original] = [r for r in rows if r["system"] == "Original" and not r["seed"]]
    value, below, above = _interval(original, "accuracy")
    axes.axhspan(value - below, value + above, color="#dddddd", linewidth=0)
    axes.axhline(value, color="#888888", linewidth=1)
    axes.text(0.945, value + 1, "Original", color="#444444", va="bottom", fontsize=9)
    for shift, (system, (colour, marker, _)) in enumerate(SHOWN.items()):
        mine = [r for r in rows if r["system"] == system and not r["seed"]]
        points = [_interval(r, "accuracy") for r in mine]
        axes.errorbar(
            [float(r["target_ratio"]) + 0.006 * (shift - 2.5) for r in mine],
            [p[0] for p in points],
            yerr=[[p[1] for p in points], [p[2] for p in points]],
            color=colour,
            marker=marker,
            label=system,
        )
    axes.set(
        xlim=(0.95, 0.45),
        ylim=(0, 112),
        yticks=range(0, 101, 20),
        xticks=[0.9, 0.7, 0.5],
        xlabel="fraction of the thinking kept in training",
        ylabel="accuracy, %",
    )
    axes.set_title("Students by ratio", loc="left", weight="bold")
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="upper right")


def _by_truth(axes: Axes, rows: list[dict[str, str]]) -> None:
    found = {(r["scorer"], r["reference"]): r for r in _rows(TRUTH) if r["measure"] == "ROC AUC" and not r["kind"]}
    for ratio, filled in ((0.7, True), (0.5, False)):
        for system, (colour, marker, key) in SHOWN.items():
            if key not in found:
                continue
            mine = [r for r in rows if r["system"] == system and float(r["target_ratio"]) == ratio and not r["seed"]]
            for row in mine:
                value, below, above = _interval(row, "accuracy")
                axes.errorbar(
                    float(found[key]["value"]),
                    value,
                    yerr=[[below], [above]],
                    color=colour,
                    marker=marker,
                    markerfacecolor=colour if filled else "white",
                )
                if filled:
                    axes.annotate(
                        system, (float(found[key]["value"]), value), (6, 4), textcoords="offset points", fontsize=8
                    )
    axes.axvline(0.5, color="#bbbbbb", linewidth=1)
    axes.set(xlim=(0, 1.15), ylim=(0, 100), xlabel="ROC AUC of the scores against the planted labels")
    axes.set_title("Better scores, better students? Filled: ratio .7, open: .5", loc="left", weight="bold")


def main(folder: Path) -> None:
    """Write both formats into a folder."""
    rows = _rows(folder / "table-seeds.csv")
    with plt.rc_context({"svg.hashsalt": "cotpress", "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
        _by_ratio(left, rows)
        _by_truth(right, rows)
        figure.savefig(folder / "plot.svg", metadata={"Date": None})
        figure.savefig(folder / "plot.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
