"""Accuracy against generated tokens of all methods, and their Pareto front.

    python -m experiments.methods.front MULTIRUN [DIR]

MULTIRUN is the folder of this experiment's multiruns; front.csv goes into DIR. A system is on the front if no other one
is at least as accurate with at most as many tokens, and better in one of them. Seeds and questions are drawn anew
together (the bootstrap of rows and columns, Owen 2007); `front_share` is the share of draws with it on the front.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.report.comparison import MARGIN
from cotpress.report.differences import verdict
from cotpress.statistics import (
    counted_correct,
    difference_interval,
    fraction_interval,
    mean_count_interval,
    seed_grids,
    simultaneous,
)
from cotpress.store.grid import csv_text, interval_cells, interval_columns
from experiments.answers import Answers, num_tokens, sweep_answers

HERE = Path(__file__).parent
FILE = "front.csv"
DRAWS = 2000
ORIGINAL = ("Original", 1.0)
COLUMNS = (
    "system", "ratio", "seeds", "questions", *interval_columns(["accuracy", "tokens", "against_original"]), "verdict",
    "on_front", "front_share",
)  # fmt: skip


def on_front(accuracy: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the systems that no other one dominates; both arrays have the systems last."""
    at_least = accuracy[..., None, :] >= accuracy[..., :, None]
    at_most = tokens[..., None, :] <= tokens[..., :, None]
    better = (accuracy[..., None, :] > accuracy[..., :, None]) | (tokens[..., None, :] < tokens[..., :, None])
    dominated: NDArray[np.bool_] = np.any(at_least & at_most & better, axis=-1)
    return ~dominated


def front_shares(correct: NDArray[np.float64], tokens: NDArray[np.float64], draws: int = DRAWS) -> NDArray[np.float64]:
    """Return how often each system is on the front if seeds and questions are drawn; `[systems, seeds, questions]`."""
    rng = np.random.default_rng(0)
    _, num_seeds, num_questions = correct.shape
    count = np.zeros(len(correct))
    for _ in range(draws):
        seeds, questions = rng.integers(0, num_seeds, num_seeds), rng.integers(0, num_questions, num_questions)
        drawn = (grid[:, seeds][:, :, questions].mean((1, 2)) for grid in (correct, tokens))
        count += on_front(*drawn)
    return count / draws


def lines(systems: Answers, confidence: float = 0.95) -> Iterator[list[Any]]:
    """Yield a line per system, by falling accuracy; intervals of the differences from Original hold together."""
    names = list(systems)
    correct, tokens = (np.array(seed_grids(list(systems.values()), m)) for m in (counted_correct(None), num_tokens))
    level = simultaneous(confidence, len(names) - 1)
    front = on_front(correct.mean((1, 2)), tokens.mean((1, 2)))
    shares = front_shares(correct, tokens)
    original = correct[names.index(ORIGINAL)]
    for place in np.argsort(-correct.mean((1, 2)), kind="stable"):
        own = correct[place]
        against = None if names[place] == ORIGINAL else difference_interval(own - original, level)
        intervals = (fraction_interval(own, own.size, level), mean_count_interval(tokens[place], level), against)
        claim = "" if against is None else verdict(against, len(own), MARGIN)
        yield [
            *names[place], *own.shape, *interval_cells(intervals), claim, int(front[place]), round(shares[place], 4)
        ]  # fmt: skip


def main(multirun: Path, folder: Path) -> None:
    """Write front.csv."""
    systems: dict[tuple[str, float], Any] = {}
    for sweep in sorted(path.parent for path in multirun.glob("*/sweep.json")):
        systems = {**sweep_answers(sweep), **systems}
    (folder / FILE).write_text(csv_text(COLUMNS, lines(systems)), encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
