"""Draws plot.png and plot.svg of this folder from front.csv: python -m experiments.methods.plot [DIR]."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    """Accuracy against generated tokens of every method; those on the front are filled and joined."""
    rows = read_rows(folder / "front.csv")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        front = sorted((float(r["tokens"]), 100 * float(r["accuracy"])) for r in rows if r["on_front"] == "1")
        axes.plot([p[0] for p in front], [p[1] for p in front], color="#D55E00", linewidth=1.4, label="front")
        for row in rows:
            x, y = (_point(row, name, factor) for name, factor in (("tokens", 1.0), ("accuracy", 100.0)))
            is_on_front = row["on_front"] == "1"
            axes.errorbar(
                x[0],
                y[0],
                xerr=lengths([x]),
                yerr=lengths([y]),
                color="#D55E00" if is_on_front else "#0072B2",
                marker="o",
                markerfacecolor="#D55E00" if is_on_front else "white",
                elinewidth=0.6,
            )
            name = row["system"] if float(row["ratio"]) == 1 else f"{row['system']} {float(row['ratio']):g}"
            axes.annotate(name, (x[0], y[0]), (5, 3), textcoords="offset points", fontsize=7)
        axes.set(ylim=(0, 102), xlabel="generated tokens", ylabel="accuracy, %")
        axes.set_title("Methods at the lengths that they come to")

    save(folder, "Accuracy against generated tokens of all methods, with the Pareto front", (10, 6), draw)


def _point(row: dict[str, str], name: str, factor: float) -> tuple[float, float, float]:
    value, low, high = (factor * float(row[name + end]) for end in ("", "_low", "_high"))
    return value, low, high


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
