"""Coverage of the intervals on simulated benchmarks with a known truth."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cotpress.statistics import fraction_interval, paired_accuracy_difference, wilson
from support.judged import answers

REPEATS = 1200


def _held(low: float, high: float, truth: float) -> bool:
    return low <= truth <= high


def _assert_covers(hits: int, repeats: int, confidence: float, *, slack: float) -> None:
    """Not below the level by more than chance and `slack` (small samples) explain; not above all reason either."""
    least = stats.binom.ppf(1e-4, repeats, confidence - slack) / repeats
    assert least <= hits / repeats, f"covers {hits / repeats:.3f}, expected {confidence}"


@pytest.mark.parametrize(("n", "p"), [(20, 0.1), (30, 0.5), (84, 0.85), (200, 0.97)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_covers(n: int, p: float, confidence: float) -> None:
    correct = np.arange(n + 1)
    held = np.array([_held(*wilson(c / n, n, confidence), p) for c in correct])
    exact = float(stats.binom.pmf(correct, n, p)[held].sum())  # no simulation needed: all outcomes are listed
    assert confidence - 0.045 < exact < 1  # it oscillates with p, as every interval for a fraction does


@pytest.mark.parametrize(("n", "k"), [(10, 8), (30, 4), (84, 8)])
@pytest.mark.parametrize("shape", [(8.0, 2.0), (0.5, 0.5), (0.3, 0.9)], ids=["easy", "split", "hard"])
def test_clustered_interval_covers(n: int, k: int, shape: tuple[float, float]) -> None:
    rng = np.random.default_rng(n * k)
    truth = shape[0] / sum(shape)
    means = rng.binomial(k, rng.beta(*shape, (REPEATS, n))) / k
    intervals = [fraction_interval(row, n * k) for row in means]
    _assert_covers(sum(_held(f.low, f.high, truth) for f in intervals), REPEATS, 0.95, slack=0.03 if n == 10 else 0.015)


def test_interval_that_ignores_clusters_would_not_cover() -> None:
    rng = np.random.default_rng(0)
    means = rng.binomial(8, rng.beta(0.5, 0.5, (REPEATS, 30))) / 8
    hits = sum(_held(*wilson(row.mean(), 240), 0.5) for row in means)
    assert hits / REPEATS < 0.7


def _coverage_of_difference(draw: Callable[[np.random.Generator], tuple[NDArray[np.int_], NDArray[np.int_]]],
                            truth: float, repeats: int) -> int:  # fmt: skip
    rng, hits = np.random.default_rng(5), 0
    for _ in range(repeats):
        ours, theirs = draw(rng)
        difference = paired_accuracy_difference(answers(ours), answers(theirs))
        hits += _held(difference.low, difference.high, truth)
    return hits


@pytest.mark.parametrize(("n", "harm"), [(20, 0.1), (84, 0.3)])
def test_paired_difference_of_single_answers_covers(n: int, harm: float) -> None:
    def draw(rng: np.random.Generator) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        theirs = rng.random((n, 1)) < 0.8
        return theirs & (rng.random((n, 1)) > harm), theirs  # right answers lost at rate `harm`

    _assert_covers(_coverage_of_difference(draw, -0.8 * harm, 500), 500, 0.95, slack=0.02)


@pytest.mark.parametrize(("n", "k"), [(15, 4), (60, 2)])
def test_paired_difference_of_several_answers_covers(n: int, k: int) -> None:
    def draw(rng: np.random.Generator) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        difficulty = rng.beta(2, 1, (n, 1))
        return rng.random((n, k)) < 0.9 * difficulty, rng.random((n, k)) < difficulty

    _assert_covers(_coverage_of_difference(draw, -0.1 * 2 / 3, 400), 400, 0.95, slack=0.015)


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.random((100, 1)) < 0.7
    ours = theirs & (rng.random((100, 1)) > 0.05)
    paired = paired_accuracy_difference(answers(ours), answers(theirs))
    alone = wilson(float(ours.mean()), 100)
    assert paired.high - paired.low < 0.75 * (alone[1] - alone[0])
