"""Obedience to the control marker: python -m experiments.tokenskip_loop.slope MULTIRUN [DIR].

MULTIRUN is the folder of this experiment's multiruns; slopes.csv goes into DIR. For every seed and question a line is
fitted to the tokens of the answers against the asked ratio, and its slope divided by the mean tokens at ratio 1 of that
seed: 1 is a student that writes as much as it is asked for, 0 one whose length does not depend on the marker.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.records import MIXED, Prediction
from cotpress.statistics import counted_correct, mean_interval, seed_grids
from cotpress.store.grid import csv_text, interval_cells, interval_columns
from experiments.answers import Answers, num_tokens, sweep_answers

HERE = Path(__file__).parent
FILE = "slopes.csv"
COLUMNS = ("measure", "ratios", "seeds", "questions", *interval_columns(["slope"]), "each_seed")


def slopes(grids: Mapping[float, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the slope of a measure over the ratio for every seed and question, from one grid `[S, N]` per ratio."""
    ratios = np.array(sorted(grids))
    values = np.stack([grids[ratio] for ratio in ratios])
    centred = ratios - ratios.mean()
    slope: NDArray[np.float64] = np.tensordot(centred, values, axes=1) / (centred**2).sum()
    return slope


def lines(answers: Answers) -> Iterator[list[Any]]:
    """Yield a line per measure and set of ratios: all of them, and those below 1, which a marker announces."""
    own = {ratio: by_seed for (label, ratio), by_seed in answers.items() if label.endswith(f"({MIXED})")}
    for name, measure, is_relative in _MEASURES:
        grids = dict(zip(own, seed_grids(list(own.values()), measure), strict=True))
        whole = grids[1.0].mean(axis=1, keepdims=True) if is_relative else 1.0
        for ratios in (sorted(own), sorted(ratio for ratio in own if ratio < 1)):
            slope = slopes({ratio: grids[ratio] for ratio in ratios}) / whole
            each = " ".join(f"{x:.3f}" for x in slope.mean(axis=1))
            spread = f"{ratios[0]:g} to {ratios[-1]:g}"
            yield [name, spread, *slope.shape, *interval_cells([mean_interval(slope)]), each]


def _thinking(prediction: Prediction) -> float:
    return float(prediction.num_thinking_tokens)


_MEASURES: Sequence[tuple[str, Callable[[Prediction], float], bool]] = (
    ("generated tokens", num_tokens, True),
    ("thinking tokens", _thinking, True),
    ("accuracy", counted_correct(None), False),
)
"""Name, measure of an answer, and if its slope is relative to the mean at ratio 1."""


def main(multirun: Path, folder: Path) -> None:
    """Write slopes.csv."""
    (folder / FILE).write_text(csv_text(COLUMNS, lines(sweep_answers(multirun / "marker"))), encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
