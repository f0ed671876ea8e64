"""Draws plot.png and plot.svg of this folder from agreement.csv: python -m experiments.score_precision.plot [DIR]."""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import read_rows, save

HERE = Path(__file__).parent
TITLES = {"built-in": "Short built-in traces", "real": "Long real traces"}
SHOWN = {
    "cts": ("#0072B2", "o"),
    "llmlingua": ("#E69F00", "X"),
    "reference_likelihood": ("#CC79A7", "v"),
    "entropy": ("#009E73", "^"),
    "step_entropy": ("#56B4E9", "s"),
}
"""Scorers with colour and marker."""


def _panel(axes: Axes, rows: list[dict[str, str]], title: str) -> None:
    ratios = [float(name.rpartition("_")[2]) for name in rows[0] if name.startswith("changed_at_")]
    axes.plot(ratios, [200 * r * (1 - r) for r in ratios], color="#888888", linestyle=":", label="unrelated orders")
    for row in rows:
        colour, marker = SHOWN[row["scorer"]]
        changed = [100 * float(row[f"changed_at_{ratio:g}"]) for ratio in ratios]
        axes.plot(ratios, changed, color=colour, marker=marker, label=row["scorer"])
    axes.set(xlim=(0.95, 0.25), xticks=ratios, xlabel="ratio")
    axes.set_title(title)


def main(folder: Path) -> None:
    """Draw `agreement.csv` of a folder."""
    rows = read_rows(folder / "agreement.csv")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (data, title) in zip(panels, TITLES.items(), strict=True):
            _panel(axes, [row for row in rows if row["data"] == data], title)
        panels[0].set(ylim=(0, 55), ylabel="keep decisions changed by bfloat16, %")
        panels[0].legend(fontsize=9)

    save(folder, "Keep decisions that bfloat16 changes, by scorer and ratio", (10, 4), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
