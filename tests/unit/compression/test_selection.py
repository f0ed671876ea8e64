import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cotpress.compression.config import Protection
from cotpress.compression.protection import protected_tokens
from cotpress.compression.selection import keep_mask, num_to_keep, select_many

RATIOS = st.floats(min_value=0.01, max_value=1.0)
# Few distinct values, so that ties are common.
SCORES = hnp.arrays(np.float32, st.integers(0, 40), elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0]))


@st.composite
def scored(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    scores = draw(SCORES)
    return scores, draw(hnp.arrays(np.bool_, len(scores)))


def naive(scores: NDArray[np.float32], ratio: float, protected: NDArray[np.bool_]) -> list[bool]:
    ranked = sorted(range(len(scores)), key=lambda i: (not protected[i], -scores[i], i))
    kept = set(ranked[: max(round(ratio * len(scores)), int(protected.sum()))])
    return [i in kept for i in range(len(scores))]


@given(SCORES, RATIOS)
def test_kept_count_is_exact(scores: NDArray[np.float32], ratio: float) -> None:
    assert keep_mask(scores, ratio).sum() == round(ratio * len(scores)) == num_to_keep(len(scores), ratio)


@given(scored(), RATIOS)
def test_selection_equals_the_naive_ranking(sample: tuple[NDArray[np.float32], NDArray[np.bool_]], r: float) -> None:
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


@given(st.lists(st.tuples(scored(), RATIOS), max_size=8))
def test_many_at_once_equal_one_by_one(
    rows: list[tuple[tuple[NDArray[np.float32], NDArray[np.bool_]], float]],
) -> None:
    flat = np.concatenate([np.empty(0, np.float32), *(s for (s, _), _ in rows)])
    held = np.concatenate([np.empty(0, bool), *(p for (_, p), _ in rows)])
    lengths = np.array([len(s) for (s, _), _ in rows], dtype=np.int64)
    together = select_many(flat, lengths, np.array([r for _, r in rows], dtype=np.float64), held)
    alone = [keep_mask(s, r, p) for (s, p), r in rows]
    assert together.tolist() == np.concatenate([np.empty(0, bool), *alone]).tolist()


def test_earlier_token_wins_a_tie() -> None:
    assert keep_mask(np.zeros(4, np.float32), 0.5).tolist() == [True, True, False, False]


def test_million_tokens_take_under_two_seconds() -> None:
    rng = np.random.default_rng(0)
    started = time.monotonic()
    select_many(
        rng.standard_normal(1_000_000).astype(np.float32),
        np.full(1000, 1000),
        np.full(1000, 0.5),
        rng.random(10**6) < 0.1,
    )
    assert time.monotonic() - started < 2


def test_digit_protection_holds_every_token_that_touches_a_digit() -> None:
    thinking = "so 12+x3 = é4 ok"
    offsets = np.array([[0, 2], [2, 5], [5, 6], [6, 8], [8, 11], [11, 13], [13, 16]], dtype=np.int32)
    held = protected_tokens(Protection.digits, thinking, offsets)
    assert [thinking[a:b] for (a, b), h in zip(offsets, held, strict=True) if h] == [" 12", "x3", "é4"]
    assert not protected_tokens(Protection.none, thinking, offsets).any()


@pytest.mark.parametrize("scores", [np.array([np.nan], np.float32), np.array([np.inf], np.float32)])
def test_scores_that_are_not_finite_are_refused(scores: NDArray[np.float32]) -> None:
    with pytest.raises(AssertionError, match="finite"):
        keep_mask(scores, 0.5)
