"""Draws plot.png and plot.svg of this folder from its csv files: python -m experiments.testbed.plot [DIR].

Left and middle: accuracy against generated tokens as the ratio falls, by deleted unit, between the ceiling (planted
labels as scores, whole words) and the floor (chance); small dots are single seeds. Right: the planned contrasts.
Missing sweeps are left out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent
CEILING = ("planted", "bounds", "planted", "#222222", "D")
LINES = {  # label in the figure, sweep, label there, colour, marker
    "word": (
        CEILING,
        ("cts", "cts", "cts granularity=word", "#0072B2", "o"),
        ("tokenskip", "tokenskip", "tokenskip granularity=word", "#009E73", "^"),
        ("Random", "bounds", "Random", "#D55E00", "s"),
    ),
    "step": (
        CEILING,
        ("cts", "cts", "cts granularity=step", "#0072B2", "o"),
        ("tokenskip", "tokenskip", "tokenskip granularity=step", "#009E73", "^"),
        ("Random", "cts", "Random granularity=step", "#D55E00", "s"),
    ),
}
_Rows = Sequence[dict[str, str]]


def _seeds(folder: Path, sweep: str) -> _Rows:
    """Rows of a sweep's table: a system's mean over seeds, which names none, and each of its seeds."""
    path = folder / f"{sweep}-seeds.csv"
    return read_rows(path) if path.exists() else []


def _draw_line(axes: Axes, rows: _Rows, label: str, colour: str, marker: str) -> None:
    """Draw a system over its ratios: the means over seeds, and a dot for the accuracy of each seed."""
    means = sorted((row for row in rows if not row["seed"]), key=lambda row: float(row["target_ratio"]))
    tokens = {row["target_ratio"]: float(row["tokens"]) for row in means}
    accuracy = [100 * float(row["accuracy"]) for row in means]
    axes.plot(list(tokens.values()), accuracy, color=colour, marker=marker, label=label)
    each = [row for row in rows if row["seed"]]
    places = [tokens[row["target_ratio"]] for row in each]
    axes.scatter(places, [100 * float(row["accuracy"]) for row in each], s=9, color=colour, alpha=0.5, linewidths=0)
    for row, x, y in zip(means, tokens.values(), accuracy, strict=True):
        axes.annotate(f"{float(row['target_ratio']):g}", (x, y), (4, 4), textcoords="offset points", fontsize=7)


def _draw_unit(axes: Axes, folder: Path, unit: str) -> None:
    """Draw all systems that delete a unit, and Original."""
    original = [row for row in _seeds(folder, "bounds") if row["system"] == "Original"]
    _draw_line(axes, original, "Original", "#888888", "*")
    for label, sweep, system, colour, marker in LINES[unit]:
        rows = [row for row in _seeds(folder, sweep) if row["system"] == system]
        if rows:
            _draw_line(axes, rows, label, colour, marker)
    axes.set(ylim=(0, 102), xlabel="generated tokens", ylabel="accuracy, %")
    axes.set_title(f"Whole {unit}s deleted")
    axes.legend(fontsize=8, loc="lower right")


def _draw_contrasts(axes: Axes, rows: _Rows) -> None:
    """Draw the differences in accuracy, from top to bottom."""
    points = [(float(r["accuracy"]), float(r["accuracy_low"]), float(r["accuracy_high"])) for r in rows]
    values, errors = [100 * point[0] for point in points], [[100 * x for x in side] for side in lengths(points)]
    axes.axvline(0, color="#666666", linewidth=1)
    axes.errorbar(values, range(len(rows), 0, -1), xerr=errors, fmt="o", color="#0072B2", linewidth=1.2)
    axes.set_yticks(range(len(rows), 0, -1), [f"{r['contrast']}, {float(r['ratio']):g}" for r in rows], fontsize=8)
    axes.set(xlabel="points of accuracy")
    axes.set_title("Parts of the fall")


def main(folder: Path) -> None:
    """Draw the csv files of a folder."""

    def draw(figure: Figure) -> None:
        left, middle, right = figure.subplots(1, 3)
        _draw_unit(left, folder, "word")
        _draw_unit(middle, folder, "step")
        _draw_contrasts(right, read_rows(folder / "contrasts.csv"))

    save(folder, "Accuracy of students against generated tokens, and the parts of the fall", (15, 5), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
