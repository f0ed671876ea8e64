"""Shares of the kept tokens by trace: exact in sum, nested as the ratio falls, equal to naive definitions."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cotpress.compression.allocation import SurveyedTrace, allocate, apportion, survey
from cotpress.compression.config import Allocation, Protection
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces
from cotpress.modeling.selection import num_to_keep, nums_to_keep
from cotpress.records import Trace, Unit

SHARED = [Allocation.threshold, Allocation.budget]
FEW = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 0.5000001, 3.0, 1e-30, -3e30])
"""Few values, so that ties are common; two differ in the last bits alone, and two are zero."""
RATIOS = st.floats(min_value=0.01, max_value=1.0)
some = settings(max_examples=60, deadline=None)


@st.composite
def surveyed(draw: st.DrawFn) -> SurveyedTrace:
    scores = np.array(
        draw(st.lists(FEW | st.floats(-5, 5, width=32, allow_subnormal=False), min_size=1, max_size=12)),
        dtype=np.float32,
    )
    held = draw(st.integers(0, 2).map(lambda n: min(n, len(scores))))
    scores[held:] = -np.sort(-scores[held:])
    return SurveyedTrace(id="t", num_held=held, num_floor=max(held, 1), scores=scores)


corpora = st.lists(surveyed(), min_size=1, max_size=8)


def reading(rows: Sequence[SurveyedTrace]) -> Callable[[], Iterator[list[SurveyedTrace | None]]]:
    """Read the rows in two chunks with a dropped trace each, and a third one without any trace left."""
    half = len(rows) // 2
    return lambda: iter([[*rows[:half], None], [None, *rows[half:]], [None]])


def shares_of(allocation: Allocation, rows: Sequence[SurveyedTrace], *ratios: float) -> NDArray[np.int64]:
    by_chunk = allocate(allocation, ratios, reading(rows))
    assert [part.shape for part in by_chunk] == [
        (len(ratios), n) for n in (len(rows) // 2, len(rows) - len(rows) // 2, 0)
    ]
    return np.concatenate(by_chunk, axis=1)


def fixed_total(rows: Sequence[SurveyedTrace], ratio: float) -> int:
    return sum(max(num_to_keep(len(row.scores), ratio), row.num_held) for row in rows)


@some
@given(corpora, RATIOS, st.sampled_from(SHARED))
def test_shares_add_up_to_what_fixed_keeps_or_to_the_floors(
    rows: list[SurveyedTrace], ratio: float, allocation: Allocation
) -> None:
    (shares,) = shares_of(allocation, rows, ratio)
    assert shares.sum() == max(fixed_total(rows, ratio), sum(row.num_floor for row in rows))
    for share, row in zip(shares.tolist(), rows, strict=True):
        assert row.num_floor <= share <= len(row.scores)


@some
@given(corpora, RATIOS, RATIOS, st.sampled_from(SHARED))
def test_no_share_rises_as_the_ratio_falls(
    rows: list[SurveyedTrace], a: float, b: float, allocation: Allocation
) -> None:
    low, high = shares_of(allocation, rows, *sorted((a, b)))
    assert (low <= high).all()


@some
@given(corpora, RATIOS)
def test_threshold_parts_the_scores_of_all_traces(rows: list[SurveyedTrace], ratio: float) -> None:
    (shares,) = shares_of(Allocation.threshold, rows, ratio)
    kept = [s for row, n in zip(rows, shares.tolist(), strict=True) for s in row.scores[row.num_floor : n].tolist()]
    gone = [s for row, n in zip(rows, shares.tolist(), strict=True) for s in row.scores[n:].tolist()]
    assert not kept or not gone or min(kept) >= max(gone)


@some
@given(corpora, st.lists(RATIOS, min_size=1, max_size=6), st.sampled_from(SHARED))
def test_several_ratios_are_counted_as_if_alone(
    rows: list[SurveyedTrace], ratios: list[float], allocation: Allocation
) -> None:
    together = shares_of(allocation, rows, *ratios)
    assert together.tolist() == [shares_of(allocation, rows, ratio)[0].tolist() for ratio in ratios]


def naive_apportion(total: int, weights: Sequence[int], low: Sequence[int], high: Sequence[int]) -> list[int]:
    """Give one token after the other to the trace with the least quotient."""
    shares = list(low)
    while sum(shares) < total:
        free = [i for i in range(len(shares)) if shares[i] < high[i]]
        shares[min(free, key=lambda i: (Fraction(2 * shares[i] + 1, 2 * weights[i]), i))] += 1
    return shares


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_apportioned_shares_equal_those_given_one_by_one(data: st.DataObject) -> None:
    bounds = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=9))
    low, high = [a for a, _ in bounds], [a + b for a, b in bounds]
    weights = [data.draw(st.integers(1, 40) | st.integers(1, 10**12)) for _ in bounds]
    total = data.draw(st.integers(sum(low), sum(high)))
    shares = apportion(total, *(np.array(values, dtype=np.int64) for values in (weights, low, high)))
    assert shares.tolist() == naive_apportion(total, weights, low, high)


def test_equal_scores_at_the_threshold_are_shared_in_proportion() -> None:
    rows = [SurveyedTrace(id=str(n), num_held=0, num_floor=1, scores=np.zeros(n, np.float32)) for n in (41, 11, 21)]
    (shares,) = shares_of(Allocation.threshold, rows, 0.5)
    assert fixed_total(rows, 0.5) == 20 + 6 + 10
    assert shares.tolist() == [1 + 19, 1 + 5, 1 + 9]  # 33 of the 40, 10 and 20 that compete: 18.9, 4.7, 9.4


@some
@given(corpora, RATIOS)
def test_budgets_are_in_proportion_to_the_mean_quantile(rows: list[SurveyedTrace], ratio: float) -> None:
    rounded = [(row.scores + 0).view(np.uint32) >> 12 for row in rows]  # 11 bits of mantissa, both zeros alike
    scores = [(bits << 12).view(np.float32).astype(float).tolist() for bits in rounded]
    corpus = list(itertools.chain.from_iterable(scores))
    weights = [sum(2 * sum(o < s for o in corpus) + sum(o == s for o in corpus) for s in own) for own in scores]
    floors, lengths = [row.num_floor for row in rows], [len(row.scores) for row in rows]
    total = max(fixed_total(rows, ratio), sum(floors))
    (shares,) = shares_of(Allocation.budget, rows, ratio)
    assert shares.tolist() == naive_apportion(total, weights, floors, lengths)


def test_trace_of_higher_scores_keeps_more_whatever_their_scale() -> None:
    plain = np.linspace(3, 0, 30, dtype=np.float32)
    for scale in (1.0, 1e-3, 1e6):
        rows = [
            SurveyedTrace(id=str(i), num_held=0, num_floor=1, scores=(plain + shift) * np.float32(scale))
            for i, shift in enumerate((-1, 0, 1))
        ]
        (shares,) = shares_of(Allocation.budget, rows, 0.5)
        assert shares.sum() == 45
        assert shares[0] < shares[1] == 15 < shares[2]


def tokenized(text: str, scores: list[float], id_: str) -> TokenizedTrace:
    """Return one token per character."""
    offsets = np.array([(i, i + 1) for i in range(len(text))], dtype=np.int32)
    trace = Trace(id=id_, question="", thinking=text, response="", answer="")
    ids = np.arange(len(text), dtype=np.int32)
    return TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=np.array(scores, dtype=np.float32))


def test_survey_holds_the_scores_of_units_in_the_order_of_deletion() -> None:
    traces = [tokenized("ab 7", [1, 2, 3, 10], "x"), tokenized("c\nd", [0, 5, 1], "y")]
    (x, y) = survey(Rules(granularity=Unit.word), traces)
    assert (x.id, x.num_held, x.num_floor, x.scores.tolist()) == ("x", 0, 1, [6.5, 6.5, 1.5, 1.5])
    assert (y.id, y.num_held, y.num_floor, y.scores.tolist()) == ("y", 0, 1, [3.0, 3.0, 0.0])
    (x, _) = survey(Rules(protection=Protection.digits), traces)
    assert (x.num_held, x.num_floor, x.scores.tolist()) == (1, 1, [10.0, 3.0, 2.0, 1.0])


def test_first_character_of_several_tokens_is_the_floor() -> None:
    offsets = np.array([(0, 1), (0, 1), (0, 1), (1, 2)], dtype=np.int32)
    trace = Trace(id="t", question="", thinking="😀a", response="", answer="")
    scores = np.array([1, 2, 6, 0], dtype=np.float32)
    tokens = TokenizedTrace(trace=trace, ids=np.arange(4, dtype=np.int32), offsets=offsets, scores=scores)
    (row,) = survey(Rules(), [tokens])
    assert (row.num_floor, row.scores.tolist()) == (3, [3.0, 3.0, 3.0, 0.0])
    assert rank_traces(Rules(), [tokens]).cut_to(np.array([row.num_floor])).tolist() == [True, True, True, False]


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 0.55, 0.7, 1.0])
def test_numbers_of_many_texts_are_those_of_each(ratio: float) -> None:
    lengths = np.arange(3000)
    assert nums_to_keep(lengths, ratio).tolist() == [num_to_keep(n, ratio) for n in lengths.tolist()]


def test_traces_without_scores_have_no_shares() -> None:
    for allocation in SHARED:
        assert [part.shape for part in allocate(allocation, [0.5, 0.7], lambda: iter([[None], []]))] == [(2, 0), (2, 0)]
