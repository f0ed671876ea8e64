"""Draws plot.png and plot.svg of this folder from losses.csv: python -m experiments.several_machines.plot [DIR]."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from experiments.drawing import read_rows, save

HERE = Path(__file__).parent
TITLES = {"lora": "LoRA, ddp", "full": "All weights, fsdp2"}
LINES = (("#0072B2", "-", 5.0, 0.35), ("#D55E00", "--", 1.6, 1.0), ("#222222", ":", 1.6, 1.0))
"""Colour, dashes, width and opacity by place: equal curves lie on each other, so the first is wide."""


def main(folder: Path) -> None:
    """Draw the curves, and below them their distances from those of one process."""
    rows = read_rows(folder / "losses.csv")
    places = list(dict.fromkeys(row["place"] for row in rows))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=(3, 1))
        for (method, title), (above, below) in zip(TITLES.items(), panels.T, strict=True):
            curves = {
                place: [float(r["loss"]) for r in rows if (r["method"], r["place"]) == (method, place)]
                for place in places
            }
            first = curves[places[0]]
            for (place, curve), (colour, dashes, width, opacity) in zip(curves.items(), LINES, strict=True):
                steps = range(1, len(curve) + 1)
                look = {"color": colour, "linestyle": dashes}
                above.plot(steps, curve, linewidth=width, alpha=opacity, label=place, **look)
                if place != places[0]:
                    distances = [abs(a - b) / b for a, b in zip(curve, first, strict=True)]
                    below.plot(steps, distances, linewidth=1.6, **look)
            above.set_title(title)
            below.set(xlabel="optimizer step")
            below.yaxis.set_major_formatter("{x:.0e}")
        panels[0][0].set(ylabel="loss, nats per token")
        panels[1][0].set(ylabel="relative distance\nfrom 1 process")
        panels[0][0].legend()

    save(folder, "Losses of the same training in one process, in two, and on two machines", (10, 5.5), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
