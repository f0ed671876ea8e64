"""Draws plot.png and plot.svg of this folder from deletions.csv: python -m experiments.real_traces.plot [DIR]."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cotpress.report.palette import SCORERS
from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent
SHOWN = 0.7
"""Ratio of the figure."""


def main(folder: Path) -> None:
    """Share of each kind of token that is deleted at `SHOWN`, by scorer."""
    rows = [r for r in read_rows(folder / "deletions.csv") if float(r["asked"]) == SHOWN]
    shown = {
        (r["scorer"], r["kind"]): tuple(100 * float(r["deleted" + end]) for end in ("", "_low", "_high")) for r in rows
    }
    scorers, kinds = (list(dict.fromkeys(r[name] for r in rows)) for name in ("scorer", "kind"))
    width = 0.8 / len(scorers)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (scorer, colour) in enumerate(zip(scorers, itertools.cycle(SCORERS), strict=False)):
            points: list[Any] = [shown[scorer, kind] for kind in kinds]
            at = np.arange(len(kinds)) + (place - (len(scorers) - 1) / 2) * width
            errors: dict[str, Any] = {"yerr": lengths(points), "error_kw": {"linewidth": 0.8}}
            axes.bar(at, [p[0] for p in points], width, color=colour, label=scorer, **errors)
        axes.axhline(100 * (1 - SHOWN), color="#222222", linewidth=1, linestyle=":")
        axes.set_xticks(np.arange(len(kinds)), kinds)
        axes.set_ylabel("deleted, % of its tokens")
        axes.set_title(f"What is deleted at ratio {SHOWN:g}; dotted: of every kind alike")
        axes.legend(fontsize=9)

    save(folder, f"Share of each kind of token that is deleted at ratio {SHOWN:g}, by scorer", (10, 4.6), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
