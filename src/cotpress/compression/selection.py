"""Which tokens stay: an order of deletion that no ratio enters, and a cut of it at the ratio.

The order. Tokens that are *held* come first: they stay whatever their score. Then the others by score, the better
first, and of equal ones the earlier first. To keep words or steps whole, give every token the mean score of its unit:
the order then is by unit score, unit position and position within the unit, so whole units stand together and a cut
falls into at most one of them, of which the beginning stays.

The cut. Of `n` tokens exactly `round(ratio * n)` stay (Python's `round`: halves go to the even number), the first of
that order; more only if more are held. Since the order is the same at every ratio, the masks of falling ratios are
nested, and ties never depend on the order of evaluation.

A limit on consecutive deletions is a matter of the order too. Imagine all tokens deleted one after the other, the last
of the order first: one whose deletion would join too long a run of deleted tokens is skipped, and held from then on.
Whatever number of the others is deleted, in this order, no run is longer than the limit.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotpress.records import num_to_keep


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The order of deletion of some thinkings, one after the other in flat arrays.

    Attributes:
        places: int64 `[sum(lengths)]`, each token's place within its own thinking: 0 is deleted last, and a token
            stays if `place < max(num_to_keep(n, ratio), number of held tokens)`.
        held: bool `[sum(lengths)]`, tokens that stay at every ratio; they have the first places.
        lengths: int64 `[rows]`, tokens per thinking.
    """

    places: NDArray[np.int64]
    held: NDArray[np.bool_]
    lengths: NDArray[np.int64]

    def cut(self, ratios: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which tokens stay, bool `[sum(lengths)]`.

        Args:
            ratios: float64 `[rows]`, kept fraction per thinking, in (0, 1].
        """
        assert ratios.shape == self.lengths.shape
        assert ((ratios > 0) & (ratios <= 1)).all(), "ratios must lie in (0, 1]"
        pairs = zip(self.lengths.tolist(), ratios.tolist(), strict=True)
        budgets = np.array([num_to_keep(n, ratio) for n, ratio in pairs], dtype=np.int64)
        return np.asarray((self.places < np.repeat(budgets, self.lengths)) | self.held)


def rank_many(
    scores: NDArray[np.float32],
    lengths: NDArray[np.int64],
    protected: NDArray[np.bool_] | None = None,
    max_consecutive_deletions: int | None = None,
) -> Ranking:
    """The order of deletion of many thinkings at once.

    Args:
        scores: float32 `[sum(lengths)]`, finite, higher = keep.
        lengths: int64 `[rows]`, tokens per thinking.
        protected: bool `[sum(lengths)]`, tokens that stay whatever their score.
        max_consecutive_deletions: Longest run of tokens that may be missing, at least 1; None sets no limit.
    """
    assert scores.shape == (lengths.sum(),)
    assert np.isfinite(scores).all(), "scores must be finite"
    held = np.zeros(len(scores), dtype=bool) if protected is None else protected
    order = _order(scores, held, lengths)
    if max_consecutive_deletions is not None:
        held = _held_by_limit(order, held, lengths, max_consecutive_deletions)
        order = _order(scores, held, lengths)
    places = np.empty(len(scores), dtype=np.int64)
    places[order] = np.arange(len(scores)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Ranking(places, held, lengths)


def select_many(
    scores: NDArray[np.float32],
    lengths: NDArray[np.int64],
    ratios: NDArray[np.float64],
    protected: NDArray[np.bool_] | None = None,
    max_consecutive_deletions: int | None = None,
) -> NDArray[np.bool_]:
    """Which tokens of many thinkings stay, bool `[sum(lengths)]`: see `rank_many` and `Ranking.cut`."""
    return rank_many(scores, lengths, protected, max_consecutive_deletions).cut(ratios)


def keep_mask(
    scores: NDArray[np.float32],
    ratio: float,
    protected: NDArray[np.bool_] | None = None,
    max_consecutive_deletions: int | None = None,
) -> NDArray[np.bool_]:
    """Which tokens of one thinking stay, bool `[n]`.

    Args:
        scores: float32 `[n]`, finite, higher = keep.
        ratio: Kept fraction, in (0, 1].
        protected: bool `[n]`, tokens that stay first. If they alone are more than the ratio allows, they and no
            others stay, so the mask then holds more than `num_to_keep` tokens.
        max_consecutive_deletions: Longest run of tokens that may be missing, at least 1; None sets no limit.
    """
    lengths = np.array([len(scores)], dtype=np.int64)
    return select_many(scores, lengths, np.array([ratio]), protected, max_consecutive_deletions)


def _order(scores: NDArray[np.float32], held: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the tokens, thinking by thinking, the one that is deleted last first."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    # The last key is the primary one; lexsort is stable, so the earlier of two equal tokens comes first.
    return np.lexsort((-scores, ~held, rows))


def _held_by_limit(
    order: NDArray[np.int64], held: NDArray[np.bool_], lengths: NDArray[np.int64], limit: int
) -> NDArray[np.bool_]:
    """`held`, and the tokens whose deletion in this order would make a run of deleted ones longer than `limit`.

    A run's length is noted at its two ends alone, so joining two runs takes constant time. Between two thinkings lies
    a place of its own that is never deleted.
    """
    assert limit >= 1
    gap = np.repeat(np.arange(len(lengths)), lengths) + 1  # thinking 0 begins at 1: position 0 is its left border
    run = [0] * (len(order) + len(lengths) + 1)
    holds = held.tolist()
    gaps = gap.tolist()
    for token in reversed(order.tolist()):
        if holds[token]:
            continue
        at = token + gaps[token]
        left, right = run[at - 1], run[at + 1]
        joined = left + right + 1
        if joined > limit:
            holds[token] = True
        else:
            run[at] = run[at - left] = run[at + right] = joined
    return np.array(holds, dtype=bool)
