"""Intervals over seeds and questions against sums written out, the bootstrap that they stand for, and a simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from cotpress.errors import DataError
from cotpress.statistics import (
    counted_correct,
    difference_interval,
    fraction_interval,
    mean_interval,
    seed_grids,
    simultaneous,
)
from support.judged import answer, answers

GRID = [[0.0, 1.0, 1.0, 0.5, 0.0], [1.0, 1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 1.0, 1.0, 0.5]]
Grid = NDArray[np.float64]


def naive_error(grid: list[list[float]]) -> tuple[float, float, float]:
    """Mean, squared standard error and degrees of freedom, with loops over seeds and questions."""
    s, n = len(grid), len(grid[0])
    mean = sum(grid[i][q] for i in range(s) for q in range(n)) / (s * n)
    over_questions = sum((sum(grid[i][q] for i in range(s)) / s - mean) ** 2 for q in range(n)) / (n - 1) / n
    over_seeds = sum((sum(row) / n - mean) ** 2 for row in grid) / (s - 1) / s
    squared = over_questions + over_seeds
    return mean, squared, squared**2 / (over_questions**2 / (n - 1) + over_seeds**2 / (s - 1))


def test_mean_equals_the_sums_written_out() -> None:
    mean, squared, degrees = naive_error(GRID)
    got, half = mean_interval(np.array(GRID), 0.9), stats.t.ppf(0.95, degrees) * math.sqrt(squared)
    assert (got.value, got.n) == (pytest.approx(mean), 5)
    assert (got.low, got.high) == (pytest.approx(mean - half), pytest.approx(mean + half))


def test_fraction_is_wilsons_of_as_many_trials_as_have_that_error() -> None:
    f, squared, degrees = naive_error(GRID)
    got, trials, t = fraction_interval(np.array(GRID), 15), f * (1 - f) / squared, stats.t.ppf(0.975, degrees)
    centre = (f + t * t / (2 * trials)) / (1 + t * t / trials)
    half = t / (1 + t * t / trials) * math.sqrt(f * (1 - f) / trials + t * t / (4 * trials**2))
    assert (got.low, got.high) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_difference_adds_half_a_question_to_each_outcome_and_the_error_over_seeds() -> None:
    grid = np.array(GRID) - 0.5
    means, n = grid.mean(axis=0), 5
    over_questions = (sum(m * m for m in means) + 1 - sum(means) ** 2 / (n + 2)) / (n + 2) ** 2
    over_seeds = stats.sem(grid.mean(axis=1)) ** 2
    degrees = (over_questions + over_seeds) ** 2 / (over_questions**2 / (n - 1) + over_seeds**2 / 2)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(over_questions + over_seeds)
    got = difference_interval(grid)
    assert (got.value, got.n) == (pytest.approx(grid.mean()), 5)
    assert (got.low, got.high) == (
        pytest.approx(sum(means) / (n + 2) - half), pytest.approx(sum(means) / (n + 2) + half)
    )  # fmt: skip


def test_one_seed_is_the_interval_over_questions() -> None:
    row = [0.0, 1.0, 1.0, 0.5, 0.0]
    assert mean_interval(np.array([row])) == mean_interval(row)
    assert fraction_interval(np.array([row]), 9) == fraction_interval(row, 9)
    assert difference_interval(np.array([row])) == difference_interval(row)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_wrong_under_every_seed_is_wilsons_interval_over_questions(value: float) -> None:
    got = fraction_interval(np.full((3, 20), value), 60)
    assert got == fraction_interval([value] * 20, 20)
    assert got.high - got.low == pytest.approx(0.161, abs=1e-3)


def test_equal_systems_have_an_interval_of_nonzero_width() -> None:
    got = difference_interval(np.zeros((3, 20)))
    assert got.low < -0.05 < got.value == 0 < 0.05 < got.high


def test_single_question_under_several_seeds_has_an_unbounded_mean_and_a_wide_fraction() -> None:
    grid = np.array([[0.0], [1.0], [1.0]])
    assert mean_interval(grid).high == math.inf
    fraction, difference = fraction_interval(grid, 3), difference_interval(grid)
    assert fraction.high - fraction.low > 0.7
    assert (difference.low, difference.high) == (-1.0, 1.0)


def test_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(1, 100)) + 0.1 * rng.normal(size=(3, 100))
    apart = alike + np.array([[-1.0], [0.0], [1.0]])
    plain, wide = mean_interval(alike), mean_interval(apart)
    assert plain.value == pytest.approx(wide.value)
    assert wide.high - wide.low > 5 * (plain.high - plain.low)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=2, max_size=6))
def test_values_lie_in_their_intervals_and_ranges(rows: list[list[bool]]) -> None:
    grid = np.array(rows, dtype=np.float64)
    fraction, difference = fraction_interval(grid, grid.size), difference_interval(grid - grid[::-1, ::-1])
    assert 0 <= fraction.low <= fraction.value <= fraction.high <= 1
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    assert fraction.low < fraction.high
    assert difference.low < difference.high


def effects(rng: np.random.Generator, shape: tuple[int, int], over_seeds: float) -> Grid:
    """Crossed random effects of mean 0: seeds, questions and the rest, the last two of standard deviation 0.3."""
    seeds, questions = shape
    between = over_seeds * rng.normal(size=(seeds, 1)) + 0.3 * rng.normal(size=(1, questions))
    return between + 0.3 * rng.normal(size=shape)


def pigeonhole(rng: np.random.Generator, grid: Grid, resamples: int) -> Grid:
    """Means of resamples of seeds and, independently, of questions (Owen 2007)."""
    weights = [rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in grid.shape]
    means: Grid = ((weights[0] @ grid) * weights[1]).sum(axis=1)
    return means


def test_error_is_that_of_the_bootstrap_where_there_are_many_seeds() -> None:
    rng = np.random.default_rng(1)
    grid = effects(rng, (40, 60), over_seeds=0.1)
    interval = mean_interval(grid)
    degrees = naive_error(grid.tolist())[2]
    error = (interval.high - interval.value) / stats.t.ppf(0.975, degrees)
    assert error == pytest.approx(pigeonhole(rng, grid, 4000).std(), rel=0.05)


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("over_seeds", [0.0, 0.05, 0.1, 0.5])
def test_intervals_cover_the_mean_at_their_level(num_seeds: int, over_seeds: float) -> None:
    """Seed effects of none to twelve times the error over questions; the simulation has an error of 0.005."""
    rng = np.random.default_rng(2)
    intervals = [mean_interval(effects(rng, (num_seeds, 100), over_seeds)) for _ in range(2000)]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert 0.92 < covered < 0.985


@pytest.mark.parametrize(("over_seeds", "most"), [(0.1, 0.92), (0.5, 0.85)])
def test_percentiles_of_the_bootstrap_over_three_seeds_miss_their_level(over_seeds: float, most: float) -> None:
    """The reason for the formula: where seeds differ most, even the level of ten comparisons covers 3 in 4 means."""
    rng = np.random.default_rng(3)
    level = simultaneous(0.95, 10)
    covered = []
    for _ in range(300):
        grid = effects(rng, (3, 100), over_seeds)
        means = pigeonhole(rng, grid, 500)
        ends = [np.quantile(means, [(1 - c) / 2, (1 + c) / 2]) for c in (0.95, level)]
        ours, questions = mean_interval(grid, level), mean_interval(grid.mean(axis=0))
        ends += [(ours.low, ours.high), (questions.low, questions.high)]
        covered.append([low <= 0 <= high for low, high in ends])
    bootstrap, corrected, ours_corrected, questions_alone = np.mean(covered, axis=0)
    assert bootstrap < most
    assert corrected < most + 0.06
    assert ours_corrected > 0.98
    assert questions_alone < 0.75


def test_levels_of_several_intervals_add_up() -> None:
    assert simultaneous(0.95, 1) == simultaneous(0.95, 0) == pytest.approx(0.95)
    assert simultaneous(0.95, 10) == pytest.approx(0.995)


def test_intervals_of_ten_comparisons_hold_together() -> None:
    rng = np.random.default_rng(4)
    level = simultaneous(0.95, 10)
    together = []
    for _ in range(300):
        grids = [effects(rng, (3, 50), over_seeds=0.1) for _ in range(10)]
        together.append(all(i.low <= 0 <= i.high for i in (mean_interval(grid, level) for grid in grids)))
    assert np.mean(together) > 0.92


def test_grids_hold_the_common_seeds_and_questions_with_samples_averaged() -> None:
    first = {
        1: answers([[1, 0], [1, 1]]),
        2: [answer(0, True), answer(1, False), answer(2, True)],
        3: [answer(0, True)],
    }
    second = {2: [answer(1, True), answer(0, False)], 1: [answer(1, False), answer(0, False)]}
    ours, theirs = seed_grids([first, second], counted_correct(None))
    np.testing.assert_array_equal(ours, [[0.5, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(theirs, [[0.0, 0.0], [0.0, 1.0]])


def test_students_without_a_common_question_or_seed_have_no_grid() -> None:
    for second in ({1: [answer(7, True)]}, {2: [answer(0, True)]}):
        with pytest.raises(DataError, match="no common question"):
            seed_grids([{1: [answer(0, True)]}, second], counted_correct(None))
