import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cotpress.modeling.selection import num_to_keep, rank_many, rank_weights

RATIOS = st.one_of(st.just(0.0), st.floats(min_value=0.01, max_value=1.0))
# Few distinct values, so that ties are common.
SCORES = hnp.arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0]))


@st.composite
def scored(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    scores = draw(SCORES)
    return scores, draw(hnp.arrays(np.bool_, len(scores)))


def single(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return offsets of tokens of one character each."""
    return np.arange(len(scores), dtype=np.int32)[:, None] + np.array([[0, 1]], dtype=np.int32)


def keep_mask(
    scores: NDArray[np.float32],
    ratio: float,
    protected: NDArray[np.bool_] | None = None,
    max_consecutive_deletions: int | None = None,
) -> NDArray[np.bool_]:
    ranking = rank_many(scores, single(scores), np.array([len(scores)]), protected, max_consecutive_deletions)
    return ranking.cut(np.array([ratio]))


def longest_gap(mask: NDArray[np.bool_]) -> int:
    return max(len(run) for run in "".join("x" if keep else "." for keep in mask).split("x"))


def naive(scores: NDArray[np.float32], ratio: float, protected: NDArray[np.bool_]) -> list[bool]:
    ranked = sorted(range(len(scores)), key=lambda i: (not protected[i], -scores[i], i))
    kept = set(ranked[: max(round(ratio * len(scores)), int(protected.sum()))])
    return [i in kept for i in range(len(scores))]


@given(SCORES, RATIOS)
def test_kept_count_is_exact(scores: NDArray[np.float32], ratio: float) -> None:
    assert keep_mask(scores, ratio).sum() == round(ratio * len(scores)) == num_to_keep(len(scores), ratio)


@given(scored(), RATIOS)
def test_selection_equals_naive_ranking(sample: tuple[NDArray[np.float32], NDArray[np.bool_]], r: float) -> None:
    assert keep_mask(sample[0], r, sample[1]).tolist() == naive(sample[0], r, sample[1])


@given(scored(), RATIOS, RATIOS)
def test_masks_are_nested_as_the_ratio_falls(
    sample: tuple[NDArray[np.float32], NDArray[np.bool_]], a: float, b: float
) -> None:
    smaller, larger = (keep_mask(sample[0], r, sample[1]) for r in sorted((a, b)))
    assert not (smaller & ~larger).any()


@given(scored(), RATIOS)
def test_protected_tokens_are_kept(sample: tuple[NDArray[np.float32], NDArray[np.bool_]], ratio: float) -> None:
    mask = keep_mask(sample[0], ratio, sample[1])
    assert mask[sample[1]].all()
    assert mask.sum() == max(round(ratio * len(mask)), sample[1].sum())


@given(SCORES)
def test_ratio_one_keeps_every_token(scores: NDArray[np.float32]) -> None:
    assert keep_mask(scores, 1.0).all()


@given(st.lists(st.tuples(scored(), RATIOS), max_size=8), st.sampled_from([None, 1, 2, 5]))
def test_many_texts_at_once_equal_single_texts(
    rows: list[tuple[tuple[NDArray[np.float32], NDArray[np.bool_]], float]], limit: int | None
) -> None:
    flat = np.concatenate([np.empty(0, np.float32), *(s for (s, _), _ in rows)])
    held = np.concatenate([np.empty(0, bool), *(p for (_, p), _ in rows)])
    lengths = np.array([len(s) for (s, _), _ in rows], dtype=np.int64)
    together = rank_many(flat, single(flat), lengths, held, limit).cut(np.array([r for _, r in rows], dtype=np.float64))
    alone = [keep_mask(s, r, p, limit) for (s, p), r in rows]
    assert together.tolist() == np.concatenate([np.empty(0, bool), *alone]).tolist()


def test_earlier_token_wins_a_tie() -> None:
    assert keep_mask(np.zeros(4, np.float32), 0.5).tolist() == [True, True, False, False]


@given(scored(), RATIOS, st.integers(1, 6))
def test_no_run_of_deleted_tokens_is_longer_than_the_limit(
    sample: tuple[NDArray[np.float32], NDArray[np.bool_]], ratio: float, limit: int
) -> None:
    scores, protected = sample
    mask = keep_mask(scores, ratio, protected, limit)
    assert longest_gap(mask) <= limit
    assert mask[protected].all()
    held = rank_many(scores, single(scores), np.array([len(scores)]), protected, limit).held
    assert mask.sum() == max(num_to_keep(len(scores), ratio), held.sum())


@given(scored(), RATIOS, RATIOS, st.integers(1, 6))
def test_masks_under_a_limit_are_nested(
    sample: tuple[NDArray[np.float32], NDArray[np.bool_]], a: float, b: float, limit: int
) -> None:
    smaller, larger = (keep_mask(sample[0], r, sample[1], limit) for r in sorted((a, b)))
    assert not (smaller & ~larger).any()


@given(scored())
def test_limit_holds_only_tokens_that_would_exceed_it(sample: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> None:
    scores, protected = sample
    lengths = np.array([len(scores)])
    for limit in (1, 2, 4):
        held = rank_many(scores, single(scores), lengths, protected, limit).held
        for token in np.flatnonzero(held & ~protected):
            without = held.copy()
            without[token] = False
            assert longest_gap(without) > limit
    unlimited = rank_many(scores, single(scores), lengths, protected, max(len(scores), 1))
    assert unlimited.held.tolist() == protected.tolist()


def test_limit_deletes_lowest_scores_first_and_skips_tokens_that_join_runs() -> None:
    scores = np.array([1, 2, 3, 4, 5, 0], np.float32)
    # Deleted in order: 5, 0, 1; then 2 would make a run of three, 3 is a run of its own, 4 would join 3 and 5.
    ranking = rank_many(scores, single(scores), np.array([6]), max_consecutive_deletions=2)
    assert ranking.held.tolist() == [False, False, True, False, True, False]
    assert ranking.places.tolist() == [4, 3, 1, 2, 0, 5]
    assert keep_mask(scores, 0.1, max_consecutive_deletions=2).tolist() == ranking.held.tolist()


@given(scored(), RATIOS, st.sampled_from([None, 2]))
def test_every_ratio_cuts_the_same_order(
    sample: tuple[NDArray[np.float32], NDArray[np.bool_]], ratio: float, limit: int | None
) -> None:
    scores, protected = sample
    ranking = rank_many(scores, single(scores), np.array([len(scores)]), protected, limit)
    assert sorted(ranking.places.tolist()) == list(range(len(scores)))
    num_kept = max(num_to_keep(len(scores), ratio), int(ranking.held.sum()))
    assert (ranking.places < num_kept).tolist() == keep_mask(scores, ratio, protected, limit).tolist()


@pytest.mark.parametrize("limit", [None, 4])
def test_million_tokens_take_under_two_seconds(limit: int | None) -> None:
    rng = np.random.default_rng(0)
    scores, protected = rng.standard_normal(10**6).astype(np.float32), rng.random(10**6) < 0.1
    started = time.process_time()
    rank_many(scores, single(scores), np.full(1000, 1000), protected, limit).cut(np.full(1000, 0.5))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("scores", [np.array([np.nan], np.float32), np.array([np.inf], np.float32)])
def test_scores_that_are_not_finite_are_refused(scores: NDArray[np.float32]) -> None:
    with pytest.raises(AssertionError, match="finite"):
        keep_mask(scores, 0.5)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Draw scores, offsets, the size of each token's character in tokens, and protected tokens."""
    sizes = draw(st.lists(st.integers(1, 4), max_size=14))
    of_token = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    num = len(of_token)
    scores = draw(hnp.arrays(np.float32, num, elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0])))
    held = draw(hnp.arrays(np.bool_, num, elements=st.sampled_from([False, False, False, True])))
    return scores, np.stack([of_token, of_token + 1], axis=1), np.repeat(np.array(sizes, dtype=np.int64), sizes), held


@given(grouped(), RATIOS, st.sampled_from([None, 1, 3, 5]))
def test_tokens_of_one_character_stay_or_go_together(sample, ratio: float, limit: int | None) -> None:  # type: ignore[no-untyped-def]
    scores, offsets, sizes, protected = sample
    ranking = rank_many(scores, offsets, np.array([len(scores)]), protected, limit)
    mask = ranking.cut(np.array([ratio]))
    for character in np.unique(offsets[:, 0]):
        assert len(set(mask[offsets[:, 0] == character].tolist())) == 1
    assert mask[protected].all()
    if limit is not None:
        assert longest_gap(mask) <= limit
    asked = max(num_to_keep(len(scores), ratio), int(ranking.held.sum()))
    assert abs(int(mask.sum()) - asked) <= sizes.max(initial=1) // 2
    whole = {0, *itertools.accumulate(size for _, size in sorted(set(zip(ranking.places, sizes, strict=True))))}
    assert abs(int(mask.sum()) - asked) == min(abs(asked - num) for num in whole), "the nearest number"


@given(grouped(), RATIOS, RATIOS)
def test_masks_of_characters_of_several_tokens_are_nested(sample, a: float, b: float) -> None:  # type: ignore[no-untyped-def]
    scores, offsets, _, protected = sample
    ranking = rank_many(scores, offsets, np.array([len(scores)]), protected, 4)
    smaller, larger = (ranking.cut(np.array([ratio])) for ratio in sorted((a, b)))
    assert not (smaller & ~larger).any()
    assert ranking.cut(np.array([1.0])).all()


def test_texts_side_by_side_share_no_character() -> None:
    offsets = np.array([[0, 1], [0, 1], [0, 1], [1, 2]], dtype=np.int32)
    ranking = rank_many(np.array([1, 3, 9, 0], np.float32), offsets, np.array([2, 2]))
    assert ranking.places.tolist() == [1, 1, 0, 1]
    assert ranking.cut(np.array([0.5, 0.5])).tolist() == [False, False, True, False]


@given(scored(), RATIOS)
def test_mean_weight_is_the_ratio_unless_more_tokens_are_held(
    sample: tuple[NDArray[np.float32], NDArray[np.bool_]], ratio: float
) -> None:
    scores, protected = sample
    ranking = rank_many(scores, single(scores), np.array([len(scores)]), protected)
    weights = rank_weights(ranking.places, ranking.held, ratio)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights[protected] == 1).all()
    assert weights.sum() == pytest.approx(max(ratio * len(scores), protected.sum()), abs=1e-4)


@given(SCORES, RATIOS)
def test_weight_falls_linearly_in_the_order_of_deletion(scores: NDArray[np.float32], ratio: float) -> None:
    ranking = rank_many(scores, single(scores), np.array([len(scores)]))
    weights, n = rank_weights(ranking.places, ranking.held, ratio), len(scores)
    for weight, place in zip(weights.tolist(), ranking.places.tolist(), strict=True):
        u = 1 - (place + 0.5) / n
        assert weight == pytest.approx(2 * ratio * u if ratio <= 0.5 else 1 - 2 * (1 - ratio) * (1 - u), abs=1e-6)


def test_tokens_of_one_character_share_a_weight_and_leave_the_mean() -> None:
    offsets = np.array([[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]], dtype=np.int32)
    ranking = rank_many(np.array([0.0, 1, 1, 1, 2], dtype=np.float32), offsets, np.array([5]))
    weights = rank_weights(ranking.places, ranking.held, 0.4)
    assert weights.tolist() == pytest.approx([0.08, 0.4, 0.4, 0.4, 0.72])
