"""Draws plot.png and plot.svg of this folder from its csv files: python -m experiments.mini_tokenskip.plot [DIR]."""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent
SIZES = {50: ("#E69F00", "s"), 400: ("#0072B2", "o")}
"""Examples of each ratio: colour and marker."""


def _rows(path: Path) -> list[dict[str, str]]:
    return [r for r in read_rows(path) if not r["seed"] and r["system"].endswith("(mixed)")]


def _obedience(axes: Axes, size: int, rows: list[dict[str, str]]) -> None:
    """Generated tokens relative to those at ratio 1, by requested ratio."""
    colour, marker = SIZES[size]
    [one] = [float(r["tokens"]) for r in rows if float(r["target_ratio"]) == 1]
    points = [(float(r["tokens"]) / one, float(r["tokens_low"]) / one, float(r["tokens_high"]) / one) for r in rows]
    targets = [float(r["target_ratio"]) for r in rows]
    label = f"{size} examples per ratio"
    axes.errorbar(targets, [p[0] for p in points], yerr=lengths(points), color=colour, marker=marker, label=label)


def _accuracy(axes: Axes, size: int, rows: list[dict[str, str]]) -> None:
    colour, marker = SIZES[size]
    value, low, high = ([100 * float(r["accuracy" + end]) for r in rows] for end in ("", "_low", "_high"))
    targets = [float(r["target_ratio"]) for r in rows]
    errors = lengths(list(zip(value, low, high, strict=True)))
    axes.errorbar(targets, value, yerr=errors, color=colour, marker=marker)


def main(folder: Path) -> None:
    """Draw `examples_50.csv` and `examples_400.csv` of a folder."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for size in SIZES:
            rows = _rows(folder / f"examples_{size}.csv")
            _obedience(left, size, rows)
            _accuracy(right, size, rows)
        left.plot([0.5, 1], [0.5, 1], color="#888888", linewidth=1, linestyle=":", label="obedient")
        left.set(xlim=(1.03, 0.47), xlabel="asked ratio", ylabel="generated tokens, relative to ratio 1")
        left.set_title("Does the marker set the length?")
        left.legend(fontsize=9)
        right.set(xlim=(1.03, 0.47), ylim=(0, 100), xlabel="asked ratio", ylabel="accuracy, %")
        right.set_title("What it costs")

    save(folder, "Generated tokens and accuracy by the ratio that the marker asks for", (11, 4.4), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
