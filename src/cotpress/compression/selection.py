"""Which tokens stay: the best-scored ones, to the token.

Of a thinking of `n` tokens exactly `round(ratio * n)` are kept (Python's `round`: halves go to the even number).
Tokens are ranked by protection, then score, then position, and the first so many stay; hence the masks of falling
ratios are nested and ties never depend on the order of evaluation.
"""

import numpy as np
from numpy.typing import NDArray


def num_to_keep(num_tokens: int, ratio: float) -> int:
    """Tokens that a ratio in (0, 1] leaves of `num_tokens`, in `[0, num_tokens]`."""
    return min(round(ratio * num_tokens), num_tokens)


def keep_mask(
    scores: NDArray[np.float32], ratio: float, protected: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Which tokens of one thinking stay, bool `[n]`.

    Args:
        scores: float32 `[n]`, finite, higher = keep.
        ratio: Kept fraction, in (0, 1].
        protected: bool `[n]`, tokens that stay first. If they alone are more than the ratio allows, they and no
            others stay, so the mask then holds more than `num_to_keep` tokens.
    """
    lengths = np.array([len(scores)], dtype=np.int64)
    return select_many(scores, lengths, np.array([ratio]), protected)


def select_many(
    scores: NDArray[np.float32],
    lengths: NDArray[np.int64],
    ratios: NDArray[np.float64],
    protected: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """`keep_mask` of many thinkings at once, one after the other in flat arrays.

    Args:
        scores: float32 `[sum(lengths)]`, finite, higher = keep.
        lengths: int64 `[rows]`, tokens per thinking.
        ratios: float64 `[rows]`, kept fraction per thinking, in (0, 1].
        protected: bool `[sum(lengths)]`, tokens that stay first.

    Returns:
        bool `[sum(lengths)]`.
    """
    assert scores.shape == (lengths.sum(),)
    assert np.isfinite(scores).all(), "scores must be finite"
    assert ((ratios > 0) & (ratios <= 1)).all(), "ratios must lie in (0, 1]"
    held = np.zeros(len(scores), dtype=bool) if protected is None else protected
    rows = np.repeat(np.arange(len(lengths)), lengths)
    budget = np.array([num_to_keep(int(n), float(r)) for n, r in zip(lengths, ratios, strict=True)], dtype=np.int64)
    # The last key is the primary one; lexsort is stable, so the earlier of two equal tokens comes first.
    order = np.lexsort((-scores, ~held, rows))
    starts = np.cumsum(lengths) - lengths
    rank = np.arange(len(scores)) - np.repeat(starts, lengths)
    mask = np.empty(len(scores), dtype=bool)
    mask[order] = rank < np.repeat(budget, lengths)
    return mask | held
