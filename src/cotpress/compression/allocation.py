"""Numbers of tokens that traces keep if they share what one ratio keeps of all of them (`compression.allocation`).

Computes  threshold   k_i = number of tokens of trace i with a score of at least tau, one tau for all traces
          budget      k_i in proportion to n_i * m_i, at most n_i
          m_i = mean over the tokens of trace i of their quantile among all scores; its redundancy is 1 - m_i
Source    ours. ADS (arXiv 2505.08392) lets the rate follow the model's entropy, token by token. `budget` lets it follow
          the scores, trace by trace: with scorer=entropy, traces that the model finds uncertain keep more.

The sum over all traces is that of `fixed`, `max(round(ratio * n), held)` tokens of each. No trace keeps less than one
character or its held tokens; only if these alone are more, the sum is larger. As with `fixed`, a cut that would divide
a character of several tokens moves to its nearer end.

m_i is the probability that a token of the trace scores higher than one of the corpus (equal ones count half), so every
rising function of the scores gives the same. There, scores of equal sign, exponent and first 11 bits are equal.

Rounding, also of tokens that score exactly tau, is that of Sainte-Laguë: the next token goes to the trace with the
least `(k_i + 1/2) / w_i`, of equal ones to the first. No trace loses a token as the ratio rises, as one could with the
largest remainder, so the masks of falling ratios are nested.

Scores are read in several passes and counted by the bits of their float32. Memory holds 8 MiB of counts, the scores of
a chunk, and some numbers per trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.compression.config import Allocation
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces, unit_scores
from cotpress.modeling.alignment import pool
from cotpress.modeling.segments import character_groups
from cotpress.modeling.selection import nums_to_keep

_LOW_BITS = 12
"""Bits of a score that are counted in a second pass."""
_NUM_BINS, _NUM_LOW = 2 ** (32 - _LOW_BITS), 2**_LOW_BITS
_NO_SCORE = 2**32 - 1
"""Above the bits of every finite score."""
_NUMBERS_AT_ONCE = 2**22
"""Ratios times traces that are counted together, 8 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedTrace:
    """Scores of a trace in the order of deletion."""

    id: str
    num_held: int  # tokens that stay at every ratio; they come first
    num_floor: int  # tokens that stay whatever other traces need: those, or the first character
    scores: NDArray[np.float32]  # `[n]`, of unit and character; they fall, apart from those of the first tokens


def survey(rules: Rules, traces: Sequence[TokenizedTrace]) -> list[SurveyedTrace]:
    """Return the scores of some traces in their orders of deletion."""
    ranking = rank_traces(rules, traces)
    bounds = np.cumsum(ranking.lengths)[:-1]
    rows = []
    for t, places, held in zip(traces, np.split(ranking.places, bounds), np.split(ranking.held, bounds), strict=True):
        num_held, num_first = int(held.sum()), int((places == places.min()).sum())
        scores = pool(unit_scores(rules, t), character_groups(t.offsets))[np.argsort(places, kind="stable")]
        floor = max(num_held, num_first)
        rows.append(SurveyedTrace(id=t.trace.id, num_held=num_held, num_floor=floor, scores=scores))
    return rows


Numbers = list[Any]
"""Rows of whole numbers, one per trace."""
Read = Callable[[], Iterator[list[SurveyedTrace | None]]]
"""Reads all training traces, chunk by chunk and in order; None stands for a trace that is dropped."""


def allocate(
    allocation: Allocation, ratios: Sequence[float], read: Read, limit: int | None = None
) -> list[NDArray[np.int64]]:
    """Return how many tokens each trace of a chunk keeps at each ratio, int64 `[ratios, traces]` per chunk.

    Args:
        allocation: `threshold` or `budget`.
        ratios: In (0, 1].
        read: Called for every pass. Traces that it has no row of are left out.
        limit: Number of first traces that are returned; None for all.
    """
    counts = _Counts.of(read, above_floor=allocation is Allocation.threshold)
    share = {Allocation.threshold: _above_threshold, Allocation.budget: _by_importance}[allocation]
    size = max(1, _NUMBERS_AT_ONCE // max(1, len(counts.lengths)))
    blocks = [ratios[i : i + size] for i in range(0, len(ratios), size)]
    shares = np.concatenate([share(counts.totals(block), counts, read)[:, :limit] for block in blocks])
    return np.split(shares, np.cumsum(counts.sizes)[:-1], axis=1)


def apportion(
    total: int, weights: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Divide `total` in proportion to weights, within bounds, by the rule of Sainte-Laguë; int64 `[n]`.

    `total` lies between the sums of the bounds; a weight is 0 only where they are equal. No number falls as `total`
    rises.
    """
    assert low.sum() <= total <= high.sum()
    divided = weights.astype(np.float64)

    def at(level: float) -> NDArray[np.int64]:
        return np.clip(np.floor(level * divided + 0.5), low, high).astype(np.int64)

    below, above = 0.0, float(np.max((high + 1) / np.maximum(divided, 1), initial=0.0))
    while below < (middle := (below + above) / 2) < above:
        below, above = (middle, above) if at(middle).sum() <= total else (below, middle)
    shares = at(below * (1 - 1e-9))  # surely no more than at the level, whose last shares go by their order
    following = np.where(shares < high, (shares + 0.5) / np.maximum(divided, 1), np.inf)
    shares[np.argsort(following, kind="stable")[: total - int(shares.sum())]] += 1
    assert shares.sum() == total
    return shares


@dataclass(frozen=True, slots=True, eq=False)
class _Counts:
    """Numbers of traces by chunk, numbers of their tokens, int64 `[traces]`, and of scores by the upper bits."""

    sizes: list[int]
    lengths: NDArray[np.int64]
    held: NDArray[np.int64]
    floors: NDArray[np.int64]
    bins: NDArray[np.int64]  # `[_NUM_BINS]`

    @classmethod
    def of(cls, read: Read, *, above_floor: bool) -> _Counts:
        """Count all traces; with `above_floor`, only the scores of the tokens that compete."""
        sizes, bins = list[int](), np.zeros(_NUM_BINS, dtype=np.int64)

        def counted(rows: list[SurveyedTrace]) -> Numbers:
            sizes.append(len(rows))
            scores = _joined(row.scores[row.num_floor :] if above_floor else row.scores for row in rows)
            np.add(bins, np.bincount(_bits(scores) >> _LOW_BITS, minlength=_NUM_BINS), out=bins)
            return [(len(row.scores), row.num_held, row.num_floor) for row in rows]

        lengths, held, floors = _table(read, counted, 3)
        return cls(sizes, lengths, held, floors, bins)

    def totals(self, ratios: Sequence[float]) -> list[int]:
        """Number of tokens that all traces keep together, by ratio."""
        kept = [int(np.maximum(nums_to_keep(self.lengths, ratio), self.held).sum()) for ratio in ratios]
        return [max(number, int(self.floors.sum())) for number in kept]


def _by_importance(totals: Sequence[int], counts: _Counts, read: Read) -> NDArray[np.int64]:
    """Return the shares of `budget`, int64 `[totals, traces]`."""
    twice_quantile = 2 * (np.cumsum(counts.bins) - counts.bins) + counts.bins  # times the number of scores: exact

    def summed(rows: list[SurveyedTrace]) -> Numbers:
        return [(twice_quantile[_bits(row.scores) >> _LOW_BITS].sum(),) for row in rows]

    (weights,) = _table(read, summed, 1)
    return np.array([apportion(n, weights, counts.floors, counts.lengths) for n in totals])


def _above_threshold(totals: Sequence[int], counts: _Counts, read: Read) -> NDArray[np.int64]:
    """Return the shares of `threshold`, int64 `[totals, traces]`."""
    wanted = np.array(totals, dtype=np.int64) - counts.floors.sum()
    thresholds = _thresholds(wanted, counts.bins, read)

    def counted(rows: list[SurveyedTrace]) -> Numbers:
        rising = [_bits(row.scores[row.num_floor :])[::-1] for row in rows]
        ends = [[np.searchsorted(bits, thresholds, side=side) for bits in rising] for side in ("left", "right")]
        return [[*(len(bits) - end), *(end - begin)] for bits, begin, end in zip(rising, *ends, strict=True)]

    above, equal = np.split(_table(read, counted, 2 * len(totals)), 2)
    shares = above + counts.floors
    for share, ties, total in zip(shares, equal, totals, strict=True):
        some = np.flatnonzero(ties)
        share[some] += apportion(total - int(share.sum()), ties[some], np.zeros_like(some), ties[some])
    return shares


def _thresholds(wanted: NDArray[np.int64], bins: NDArray[np.int64], read: Read) -> NDArray[np.uint32]:
    """Return the bits of the n-th largest competing score for each n of `wanted`, uint32 `[len(wanted)]`.

    For n = 0 they are those above every score.
    """
    upper, left = _from_top(bins, wanted)
    some = np.unique(upper[wanted > 0])
    low = np.zeros((len(some), _NUM_LOW), dtype=np.int64)
    for rows in _chunks(read):
        bits = _bits(_joined(row.scores[row.num_floor :] for row in rows))
        inside = bits[np.isin(bits >> _LOW_BITS, some)]
        place = np.searchsorted(some, inside >> _LOW_BITS) * _NUM_LOW + inside % _NUM_LOW
        low += np.bincount(place, minlength=low.size).reshape(low.shape)
    thresholds = np.full(len(wanted), _NO_SCORE, dtype=np.uint32)
    for i in np.flatnonzero(wanted > 0):
        (lower,), _ = _from_top(low[np.searchsorted(some, upper[i])], left[i : i + 1])
        thresholds[i] = upper[i] * _NUM_LOW + lower
    return thresholds


def _from_top(counts: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bin with the n-th largest element for each n of `wanted`, and how many of that bin are among the n."""
    falling = np.cumsum(counts[::-1])
    places = np.minimum(np.searchsorted(falling, wanted), len(falling) - 1)
    return len(falling) - 1 - places, wanted - np.where(places > 0, falling[places - 1], 0)


def _bits(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return whole numbers in the order of finite scores, uint32 `[n]`; both zeros are equal."""
    bits = (scores + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31))


def _table(read: Read, of: Callable[[list[SurveyedTrace]], Numbers], width: int) -> NDArray[np.int64]:
    """Return some numbers of each trace, int64 `[width, traces]`; `of` gives those of the traces of a chunk."""
    parts = [np.array(of(rows), dtype=np.int64).reshape(-1, width) for rows in _chunks(read)]
    return np.concatenate([np.empty((0, width), dtype=np.int64), *parts]).T


def _joined(scores: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([np.empty(0, dtype=np.float32), *scores])


def _chunks(read: Read) -> Iterator[list[SurveyedTrace]]:
    """Yield the traces of each chunk that are not dropped."""
    return ([row for row in chunk if row is not None] for chunk in read())
