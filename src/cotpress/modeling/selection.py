"""Order of deletion of thinking tokens, independent of the ratio, and its cut at a ratio.

Groups: the tokens that hold the bytes of one character stay or go together (`segments.character_groups`). A group has
the mean score of its tokens and is held if one of them is. Most groups are a single token.

Order: *held* groups come first and stay at every ratio. The others follow by falling score, equal scores in the order
of the text. If every token has the mean score of its unit, a cut divides at most one unit, whose beginning
stays.

Cut: of `n` tokens the first `round(ratio * n)` of the order stay (Python's `round`: halves go to the even number), and
more only if more are held. Where this would divide a character of `s` tokens, it stays if more than half of them would:
the number of kept tokens is then off by at most `s // 2`. The masks of falling ratios are nested.

Limit on consecutive deletions: the groups are deleted one by one from the end of the order, and one whose deletion
would make a run of deleted tokens longer than the limit is held instead. So no cut of the order exceeds the limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.segments import character_groups


def num_to_keep(num_tokens: int, ratio: float) -> int:
    """Return how many of `num_tokens` tokens a ratio in [0, 1] keeps, in `[0, num_tokens]`."""
    return min(round(ratio * num_tokens), num_tokens)


def nums_to_keep(nums_tokens: NDArray[np.int64], ratio: float | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return `num_to_keep` of many texts, int64 `[n]`."""
    return np.minimum(np.rint(ratio * nums_tokens), nums_tokens).astype(np.int64)


def draw_ratio(ratios: Sequence[float], seed: int, trace_id: str) -> float:
    """Draw the ratio of one trace, uniformly over `ratios` and independently of other traces."""
    digest = hashlib.sha256(f"{seed}:{trace_id}".encode()).digest()
    return ratios[int.from_bytes(digest[:8]) % len(ratios)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTrace:
    """Order of deletion of a trace's thinking tokens, which gives its compression at every ratio."""

    id: str
    offsets: NDArray[np.int32]  # `[n, 2]`, characters of `thinking` that each of the student's tokens stands for
    scores: NDArray[np.float32]  # `[n]`
    places: NDArray[np.int32]  # `[n]`, the token of place 0 is deleted last; tokens of one character share a place
    num_held: int  # number of tokens that stay at every ratio; they have the first places

    def kept(self, ratio: float) -> NDArray[np.bool_]:
        """Return the keep mask at a ratio in [0, 1], bool `[n]`."""
        return self.places < max(num_to_keep(len(self.places), ratio), self.num_held)


PERCENTS = tuple(range(30, 101))
"""Kept percentages of the slider on a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTrace:
    """Numbers of tokens that a trace keeps where traces share those of a ratio (`compression.allocation`)."""

    id: str
    num_kept: NDArray[np.int32]  # `[len(PERCENTS)]`, where the ratio is so many percent


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Order of deletion of several texts, concatenated in flat arrays.

    Attributes:
        places: int64 `[sum(lengths)]`, place of each token within its own text; 0 is deleted last. The tokens of one
            character share the place of their middle one.
        held: bool `[sum(lengths)]`, tokens that stay at every ratio; they have the first places.
        lengths: int64 `[rows]`, tokens per text.
    """

    places: NDArray[np.int64]
    held: NDArray[np.bool_]
    lengths: NDArray[np.int64]

    def cut(self, ratios: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return the keep mask at one ratio in [0, 1] per text, bool `[sum(lengths)]`."""
        assert ratios.shape == self.lengths.shape
        assert ((ratios >= 0) & (ratios <= 1)).all(), "ratios must lie in [0, 1]"
        return self.cut_to(nums_to_keep(self.lengths, ratios))

    def cut_to(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the keep mask at one number of kept tokens per text, bool `[sum(lengths)]`."""
        return np.asarray((self.places < np.repeat(numbers, self.lengths)) | self.held)


def rank_weights(places: NDArray[np.int64], held: NDArray[np.bool_], ratio: float) -> NDArray[np.float32]:
    """Return a weight of each token of one text by its place in the order of deletion, float32 `[n]`, in [0, 1].

    With `u = 1 - (place + 0.5) / n`, which falls from 1 to 0, the weight is `2 ratio u` for a ratio of at most 0.5, and
    `1 - 2 (1 - ratio) (1 - u)` above it: linear in the place, with the ratio as its mean. Held tokens have weight 1,
    and the others, in an order of their own, share the rest of `ratio * n`. The tokens of one character share the mean
    of their places.

    Args:
        places: int64 `[n]`, as in `Ranking`.
        held: bool `[n]`, as in `Ranking`.
        ratio: Mean weight, in [0, 1]; the mean is higher only if more tokens are held.
    """
    weights = np.ones(len(places), dtype=np.float64)
    num_free = len(places) - int(held.sum())
    if num_free:
        rest = min(max(ratio * len(places) - (len(places) - num_free), 0.0) / num_free, 1.0)
        _, group, sizes = np.unique(places[~held], return_inverse=True, return_counts=True)
        middle = (np.cumsum(sizes) - sizes / 2)[group] / num_free  # (place + 0.5) / n of the group
        weights[~held] = 2 * rest * (1 - middle) if rest <= 0.5 else 1 - 2 * (1 - rest) * middle
    return weights.astype(np.float32)


def rank_many(
    scores: NDArray[np.floating[Any]],
    offsets: NDArray[np.int32],
    lengths: NDArray[np.int64],
    protected: NDArray[np.bool_] | None = None,
    max_consecutive_deletions: int | None = None,
) -> Ranking:
    """Rank the tokens of many texts, each as if it were alone.

    Args:
        scores: float `[sum(lengths)]`, finite, higher = keep.
        offsets: int32 `[sum(lengths), 2]`, characters of its own text that each token stands for.
        lengths: int64 `[rows]`, tokens per text.
        protected: bool `[sum(lengths)]`, tokens that stay whatever their score.
        max_consecutive_deletions: Longest run of deleted tokens, at least 1; None sets no limit.
    """
    assert scores.shape == (lengths.sum(),)
    assert offsets.shape == (len(scores), 2)
    assert np.isfinite(scores).all(), "scores must be finite"
    rows = np.repeat(np.arange(len(lengths)), lengths)
    apart = (int(offsets.max(initial=0)) + 1) * rows[:, None]  # no two texts share a character
    of_token = character_groups(offsets + apart)
    groups = _Groups.of(of_token, scores, np.zeros(len(scores), dtype=np.bool_) if protected is None else protected)
    group_rows = rows[groups.first]
    held, order = groups.held, _order(groups, groups.held, group_rows)
    if max_consecutive_deletions is not None:
        held = _held_by_limit(order, groups, held, group_rows, max_consecutive_deletions)
        order = _order(groups, held, group_rows)
    sizes = groups.sizes[order]
    before = np.cumsum(sizes) - sizes - (np.cumsum(lengths) - lengths)[group_rows[order]]  # in its own text
    places = np.empty(len(order), dtype=np.int64)
    places[order] = before + sizes // 2
    return Ranking(places[of_token], held[of_token], lengths)


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Tokens that stay or go together: position of the first, number, mean score, true if one is held; `[groups]`."""

    first: NDArray[np.int64]
    sizes: NDArray[np.int64]
    scores: NDArray[np.float64]
    held: NDArray[np.bool_]

    @classmethod
    def of(cls, of_token: NDArray[np.int64], scores: NDArray[np.floating[Any]], held: NDArray[np.bool_]) -> _Groups:
        sizes = np.bincount(of_token)
        means = np.bincount(of_token, weights=scores) / sizes
        return cls(np.cumsum(sizes) - sizes, sizes, means, np.bincount(of_token, weights=held) > 0)


def _order(groups: _Groups, held: NDArray[np.bool_], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups, text by text, from the last deleted to the first."""
    # The last key is the primary one; lexsort is stable, so the earlier of two equal groups comes first.
    return np.lexsort((-groups.scores, ~held, rows))


def _held_by_limit(
    order: NDArray[np.int64], groups: _Groups, held: NDArray[np.bool_], rows: NDArray[np.int64], limit: int
) -> NDArray[np.bool_]:
    """Return `held` with the groups added whose deletion would make a run of deleted tokens longer than `limit`.

    The length of a run is stored at its two ends only, so that joining two runs takes constant time. An extra position
    between two texts is never deleted.
    """
    assert limit >= 1
    starts = (groups.first + rows + 1).tolist()  # position 0 is the left border of the first text
    sizes, holds = groups.sizes.tolist(), held.tolist()
    run = [0] * (sum(sizes) + (int(rows.max(initial=0)) + 1) + 1)
    for group in reversed(order.tolist()):
        if holds[group]:
            continue
        start, end = starts[group], starts[group] + sizes[group]
        left, right = run[start - 1], run[end]
        joined = left + sizes[group] + right
        if joined > limit:
            holds[group] = True
        else:
            run[start - left] = run[end - 1 + right] = joined
    return np.array(holds, dtype=bool)
