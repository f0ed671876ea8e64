"""Intervals against hand computation, scipy and brute force."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from cotpress.errors import DataError
from cotpress.statistics import (
    accuracy_interval,
    fraction_interval,
    mean_count_interval,
    mean_interval,
    paired_accuracy_difference,
    pass_at_k,
    pass_at_k_intervals,
    question_means,
    standard_error,
    token_ratio,
    wilson,
)
from support.judged import answer, answers


def test_wilson_equals_published_values() -> None:
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29.
    for (x, n), (low, high) in {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
    }.items():  # fmt: skip
        assert wilson(x / n, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_one_sample_per_question_is_plain_wilson() -> None:
    interval = accuracy_interval([answer(i, i < 15) for i in range(148)])
    assert (interval.value, interval.n) == (15 / 148, 148)
    assert (interval.low, interval.high) == pytest.approx(wilson(15 / 148, 148))


def test_equal_samples_count_as_one() -> None:
    once = accuracy_interval([answer(i, i < 6) for i in range(10)])
    thrice = accuracy_interval([answer(i, i < 6, sample=s) for i in range(10) for s in range(3)])
    assert (thrice.low, thrice.high, thrice.n) == (pytest.approx(once.low), pytest.approx(once.high), 10)


def test_equal_questions_count_as_single_answers() -> None:
    mixed = accuracy_interval([answer(i, s == 0, sample=s) for i in range(10) for s in range(2)])
    assert (mixed.low, mixed.high) == pytest.approx(wilson(0.5, 10))


def test_clustered_interval_equals_the_hand_computed_one() -> None:
    means = [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    got = fraction_interval(means, num_answers=24)
    f, n = np.mean(means), 6
    variance = sum((m - f) ** 2 for m in means) / (n - 1) / n
    trials, t = f * (1 - f) / variance, stats.t.ppf(0.975, n - 1)
    centre = (f + t * t / (2 * trials)) / (1 + t * t / trials)
    half = t / (1 + t * t / trials) * math.sqrt(f * (1 - f) / trials + t * t / (4 * trials**2))
    assert (got.value, got.n) == (pytest.approx(f), 6)
    assert (got.low, got.high) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_interval_is_never_narrower_than_that_of_independent_answers() -> None:
    some = accuracy_interval([answer(i, (i + s) % 3 == 0, sample=s) for i in range(10) for s in range(2)])
    low, high = wilson(some.value, 20)
    assert some.high - some.low >= high - low


def test_standard_error_is_clustered_by_question() -> None:
    verdicts = [[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 0]]
    expected = stats.sem([np.mean(row) for row in verdicts])
    assert standard_error(question_means(answers(verdicts), lambda p: float(p.correct))) == pytest.approx(expected)
    assert standard_error([0.3]) is None


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=30))
def test_accuracy_lies_in_its_interval_and_in_the_unit_range(questions: list[list[bool]]) -> None:
    got = accuracy_interval([answer(i, c, sample=s) for i, row in enumerate(questions) for s, c in enumerate(row)])
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert got.low < got.high


def test_mean_of_counts_has_no_values_below_zero() -> None:
    counts = [[1.0, 3.0], [90.0, 110.0], [2.0, 4.0]]
    got, unbounded = mean_count_interval(counts), mean_interval(counts)
    assert (got.low, got.value, got.high) == (0, unbounded.value, unbounded.high)
    assert unbounded.low < 0
    assert mean_count_interval([5.0, 7.0, 6.0]) == mean_interval([5.0, 7.0, 6.0])


def test_mean_interval_equals_the_textbook_value() -> None:
    # sd = sqrt(2.5), t(0.975, 4) = 2.77645
    got = mean_interval([1, 2, 3, 4, 5])
    assert (got.value, got.n) == (3.0, 5)
    assert got.high - got.value == pytest.approx(2.77645 * math.sqrt(2.5 / 5), abs=1e-4)
    expected = stats.t.interval(0.9, 4, loc=3, scale=stats.sem([1, 2, 3, 4, 5]))
    got = mean_interval([1, 2, 3, 4, 5], 0.9)
    assert (got.low, got.high) == pytest.approx(expected)


def test_single_value_has_an_unbounded_interval() -> None:
    assert mean_interval([7.0]).high == math.inf


def test_paired_difference_equals_the_hand_computed_value() -> None:
    # 10 questions: both right 5, only ours 3, only theirs 1, neither 1. Agresti-Min: N* = 12, b* = 3.5, c* = 1.5.
    ours = [answer(i, i < 8) for i in range(10)]
    theirs = [answer(i, i < 5 or i == 8) for i in range(10)]
    got = paired_accuracy_difference(ours, theirs)
    half = 1.959964 * math.sqrt(3.5 + 1.5 - 2.0**2 / 12) / 12
    assert (got.value, got.n) == (pytest.approx(0.2), 10)
    assert (got.low, got.high) == (pytest.approx(2 / 12 - half), pytest.approx(2 / 12 + half))


def test_equal_answers_have_an_interval_of_nonzero_width() -> None:
    same = [answer(i, True) for i in range(8)]
    got = paired_accuracy_difference(same, same)
    assert got.low < got.value == 0 < got.high


def test_only_shared_questions_are_compared() -> None:
    ours, theirs = [answer(1, True, 5), answer(2, True, 99)], [answer(1, False, 10), answer(3, True, 99)]
    assert paired_accuracy_difference(ours, theirs).n == 1
    assert token_ratio(ours, theirs) == 0.5
    with pytest.raises(DataError, match="no common question"):
        token_ratio([answer(1, True)], [answer(2, True)])


def test_ratio_to_an_empty_baseline_is_none() -> None:
    silent = [answer(1, False, 0), answer(2, False, 0)]
    assert token_ratio([answer(1, True, 5)], silent) is None
    assert token_ratio(silent, silent) is None
    assert token_ratio(silent, [answer(1, True, 5)]) == 0.0


def test_paired_difference_of_several_samples_is_a_paired_t_interval() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 2, (12, 4)), rng.integers(0, 2, (12, 3))
    got = paired_accuracy_difference(answers(ours), answers(theirs))
    result = stats.ttest_rel(ours.mean(1), theirs.mean(1)).confidence_interval(0.95)
    assert (got.value, got.n) == (pytest.approx(ours.mean() - theirs.mean()), 12)
    assert (got.low, got.high) == (pytest.approx(result.low), pytest.approx(result.high))


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_answer(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_more_than_the_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(2, 1, 3)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12))
def test_pass_at_k_starts_at_the_accuracy_rises_with_k_and_ends_at_any(questions: list[list[bool]]) -> None:
    predictions = answers(questions)
    intervals = pass_at_k_intervals(predictions)
    assert len(intervals) == 3
    assert intervals[0].value == pytest.approx(accuracy_interval(predictions).value)
    assert intervals[2].value == pytest.approx(np.mean([any(q) for q in questions]))
    assert intervals[0].value <= intervals[1].value + 1e-12 <= intervals[2].value + 2e-12


def test_accuracy_at_a_budget_needs_room_for_the_end_token() -> None:
    rows = [answer(i, True, tokens) for i, tokens in enumerate((10, 20, 30, 40, 50))]
    assert [accuracy_interval(rows, budget=b).value for b in (30, 31, 50, 51)] == [0.4, 0.6, 0.8, 1.0]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 99)), min_size=1, max_size=30))
def test_accuracy_at_a_budget_rises_to_the_accuracy(rows: list[tuple[bool, int]]) -> None:
    predictions = [answer(i, correct, tokens) for i, (correct, tokens) in enumerate(rows)]
    curve = [accuracy_interval(predictions, budget=b).value for b in (0, 10, 50, 99, 100)]
    assert curve == sorted(curve)
    assert curve[-1] == accuracy_interval(predictions).value
    assert curve[2] == pytest.approx(np.mean([c and t < 50 for c, t in rows]))


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
