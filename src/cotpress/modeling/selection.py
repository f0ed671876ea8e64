"""Order of deletion of thinking tokens, independent of the ratio, and its cut at a ratio.

Order: *held* tokens come first and stay at every ratio. The others follow by falling score, equal scores in the order
of the text. If every token has the mean score of its word or step, a cut divides at most one unit, whose beginning
stays.

Cut: of `n` tokens the first `round(ratio * n)` of the order stay (Python's `round`: halves go to the even number), and
more only if more are held. The masks of falling ratios are nested.

Limit on consecutive deletions: the tokens are deleted one by one from the end of the order, and one whose deletion
would make a run of deleted tokens longer than the limit is held instead. So no cut of the order exceeds the limit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.records import num_to_keep


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Order of deletion of several texts, concatenated in flat arrays.

    Attributes:
        places: int64 `[sum(lengths)]`, place of each token within its own text; 0 is deleted last.
        held: bool `[sum(lengths)]`, tokens that stay at every ratio; they have the first places.
        lengths: int64 `[rows]`, tokens per text.
    """

    places: NDArray[np.int64]
    held: NDArray[np.bool_]
    lengths: NDArray[np.int64]

    def cut(self, ratios: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return the keep mask at one ratio in (0, 1] per text, bool `[sum(lengths)]`."""
        assert ratios.shape == self.lengths.shape
        assert ((ratios > 0) & (ratios <= 1)).all(), "ratios must lie in (0, 1]"
        pairs = zip(self.lengths.tolist(), ratios.tolist(), strict=True)
        budgets = np.array([num_to_keep(n, ratio) for n, ratio in pairs], dtype=np.int64)
        return np.asarray((self.places < np.repeat(budgets, self.lengths)) | self.held)


def rank_many(
    scores: NDArray[np.floating[Any]],
    lengths: NDArray[np.int64],
    protected: NDArray[np.bool_] | None = None,
    max_consecutive_deletions: int | None = None,
) -> Ranking:
    """Rank the tokens of many texts, each as if it were alone.

    Args:
        scores: float `[sum(lengths)]`, finite, higher = keep.
        lengths: int64 `[rows]`, tokens per text.
        protected: bool `[sum(lengths)]`, tokens that stay whatever their score.
        max_consecutive_deletions: Longest run of deleted tokens, at least 1; None sets no limit.
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


def _order(scores: NDArray[np.floating[Any]], held: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of the tokens, text by text, from the last deleted to the first."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    # The last key is the primary one; lexsort is stable, so the earlier of two equal tokens comes first.
    return np.lexsort((-scores, ~held, rows))


def _held_by_limit(
    order: NDArray[np.int64], held: NDArray[np.bool_], lengths: NDArray[np.int64], limit: int
) -> NDArray[np.bool_]:
    """Return `held` with the tokens added whose deletion would make a run of deleted ones longer than `limit`.

    The length of a run is stored at its two ends only, so that joining two runs takes constant time. An extra position
    between two texts is never deleted.
    """
    assert limit >= 1
    gaps = (np.repeat(np.arange(len(lengths)), lengths) + 1).tolist()  # position 0 is the left border of the first text
    run = [0] * (len(order) + len(lengths) + 1)
    holds = held.tolist()
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
