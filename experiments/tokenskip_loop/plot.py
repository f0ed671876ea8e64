"""Draws plot.png and plot.svg of this folder from marker-seeds.csv: python -m experiments.tokenskip_loop.plot [DIR]."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent


def main(folder: Path) -> None:
    """Tokens relative to ratio 1, and accuracy, by the ratio that the marker asks for."""
    rows = [r for r in read_rows(folder / "marker-seeds.csv") if not r["seed"] and r["system"].endswith("(mixed)")]
    rows.sort(key=lambda row: float(row["target_ratio"]))
    asked = [float(row["target_ratio"]) for row in rows]

    def draw(figure: Figure) -> None:
        for axes, name, factor in zip(
            figure.subplots(1, 2), _AXES, (1 / float(rows[-1]["tokens"]), 100.0), strict=True
        ):
            points = [tuple(factor * float(row[name + end]) for end in ("", "_low", "_high")) for row in rows]
            errors = lengths([(p[0], p[1], p[2]) for p in points])
            axes.errorbar(asked, [p[0] for p in points], yerr=errors, color="#0072B2", marker="o")
            axes.set(xlim=(1.03, 0.47), xlabel="asked ratio", ylabel=_AXES[name])
            if name == "tokens":
                axes.plot([0.5, 1], [0.5, 1], color="#888888", linewidth=1, linestyle=":", label="as asked")
                axes.legend(fontsize=9)
            else:
                axes.set(ylim=(0, 102))

    save(folder, "Generated tokens and accuracy by the ratio that the marker asks for", (10, 4.2), draw)


_AXES = {"tokens": "generated tokens, relative to ratio 1", "accuracy": "accuracy, %"}

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
