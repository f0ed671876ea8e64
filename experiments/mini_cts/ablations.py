"""Draws ablations.png and ablations.svg from the paired differences of all sweeps but the main one.

python -m experiments.mini_cts.ablations [DIR]
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent
RATIOS = (0.9, 0.7, 0.5)
SHOWN = (  # sweep and what it sets, a value minus another one, of these scorers
    ("reference", "lora", "none", ("cts", "llmlingua")),
    ("condition", "question_answer", "answer", ("cts",)),
    ("condition", "question", "answer", ("cts",)),
    ("alignment", "own", "next", ("cts",)),
    ("protection", "digits", "none", ("cts", "random", "llmlingua", "tokenskip")),
    ("granularity", "step", "token", ("random", "cts", "reference_likelihood", "reference_walk", "tokenskip")),
)
COLOURS = {
    "cts": "#0072B2",
    "llmlingua": "#E69F00",
    "random": "#666666",
    "reference_likelihood": "#CC79A7",
    "reference_walk": "#D55E00",
    "tokenskip": "#009E73",
}


def _differences(folder: Path) -> dict[str, dict[float, tuple[float, float, float]]]:
    """By label, from top to bottom: by ratio, points of accuracy with both ends of the interval."""
    differences: dict[str, dict[float, tuple[float, float, float]]] = {}
    for name, value, other, scorers in SHOWN:
        rows = read_rows(folder / f"{name}-differences.csv")
        for scorer in scorers:
            pair = (f"{scorer} {name}={value}", f"{scorer} {name}={other}")
            points = {}
            for row in rows:
                low, middle, high = (100 * float(row[f"accuracy{end}"]) for end in ("_low", "", "_high"))
                if (row["system"], row["minus"]) == pair:
                    points[float(row["ratio"])] = (middle, low, high)
                elif (row["minus"], row["system"]) == pair:
                    points[float(row["ratio"])] = (-middle, -high, -low)
            differences[f"{scorer}: {name} {value} - {other}"] = points
    return differences


def _panel(axes: Axes, ratio: float, differences: dict[str, dict[float, tuple[float, float, float]]]) -> None:
    axes.axvline(0, color="#666666", linewidth=1)
    for place, (label, points) in enumerate(differences.items()):
        if ratio in points:
            colour = COLOURS[label.partition(":")[0]]
            axes.errorbar(points[ratio][0], -place, xerr=lengths([points[ratio]]), color=colour, marker="o")
    axes.set_yticks([-place for place in range(len(differences))], list(differences))
    axes.set(xlim=(-65, 65), xlabel="points of accuracy")
    axes.set_title(f"ratio {ratio:g}")


def main(folder: Path) -> None:
    """Draw the differences of a folder."""
    differences = _differences(folder)

    def draw(figure: Figure) -> None:
        for axes, ratio in zip(figure.subplots(1, len(RATIOS), sharey=True), RATIOS, strict=True):
            _panel(axes, ratio, differences)

    title = "Paired differences in accuracy between students, by setting and ratio"
    save(folder, title, (12, 4.6), draw, name="ablations")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
