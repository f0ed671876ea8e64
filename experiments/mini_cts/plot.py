"""Draws plot.png and plot.svg from table-seeds.csv and the fidelity table.

python -m experiments.mini_cts.plot [DIR]
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

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


def _accuracy(row: dict[str, str]) -> tuple[float, float, float]:
    """Value and both ends of its interval, in percent."""
    value, low, high = (100 * float(row["accuracy" + end]) for end in ("", "_low", "_high"))
    return value, low, high


def _by_ratio(axes: Axes, rows: list[dict[str, str]]) -> None:
    [original] = [r for r in rows if r["system"] == "Original" and not r["seed"]]
    value, low, high = _accuracy(original)
    axes.axhspan(low, high, color="#dddddd", linewidth=0)
    axes.axhline(value, color="#888888", linewidth=1)
    axes.text(0.945, value + 1, "Original", color="#444444", va="bottom", fontsize=9)
    for shift, (system, (colour, marker, _)) in enumerate(SHOWN.items()):
        mine = [r for r in rows if r["system"] == system and not r["seed"]]
        points = [_accuracy(r) for r in mine]
        axes.errorbar(
            [float(r["target_ratio"]) + 0.006 * (shift - 2.5) for r in mine],
            [p[0] for p in points],
            yerr=lengths(points),
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
    axes.set_title("Students by ratio")
    axes.legend(fontsize=9, ncols=3, loc="upper right")


def _by_truth(axes: Axes, rows: list[dict[str, str]]) -> None:
    fidelity = {
        (r["scorer"], r["reference"]): r for r in read_rows(TRUTH) if r["measure"] == "ROC AUC" and not r["kind"]
    }
    for ratio, filled in ((0.7, True), (0.5, False)):
        for system, (colour, marker, key) in SHOWN.items():
            if key not in fidelity:
                continue
            mine = [r for r in rows if r["system"] == system and float(r["target_ratio"]) == ratio and not r["seed"]]
            for row in mine:
                point = _accuracy(row)
                axes.errorbar(
                    float(fidelity[key]["value"]),
                    point[0],
                    yerr=lengths([point]),
                    color=colour,
                    marker=marker,
                    markerfacecolor=colour if filled else "white",
                )
                if filled:
                    axes.annotate(
                        system,
                        (float(fidelity[key]["value"]), point[0]),
                        (6, 4),
                        textcoords="offset points",
                        fontsize=8,
                    )
    axes.axvline(0.5, color="#bbbbbb", linewidth=1)
    axes.set(xlim=(0, 1.15), ylim=(0, 100), xlabel="ROC AUC of the scores against the planted labels")
    axes.set_title("Better scores, better students? Filled: ratio .7, open: .5")


def main(folder: Path) -> None:
    """Draw `table-seeds.csv` of a folder."""
    rows = read_rows(folder / "table-seeds.csv")

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        _by_ratio(left, rows)
        _by_truth(right, rows)

    save(folder, "Accuracy of students by ratio, and by how well the scores find the planted labels", (12, 4.8), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
