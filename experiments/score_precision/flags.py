"""Agreement of two sets of scores of the same tokens, in rank and in keep decisions.

Used for one scorer in two number formats.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from cotpress.errors import DataError
from cotpress.modeling.selection import rank_many
from cotpress.records import ScoredTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement of two sets of scores.

    Attributes:
        num_traces: Traces compared.
        num_tokens: Their tokens.
        mean_rank_correlation: Spearman's, the mean over traces of at least two different scores in both sets.
        lowest_rank_correlation: The lowest of them.
        changed_decisions: By ratio, the share of tokens that stay under one set of scores and go under the other;
            0 for equal orders, 2 * ratio * (1 - ratio) for unrelated ones.
    """

    num_traces: int
    num_tokens: int
    mean_rank_correlation: float
    lowest_rank_correlation: float
    changed_decisions: dict[float, float]


def agreement(one: Sequence[ScoredTrace], other: Sequence[ScoredTrace], ratios: Sequence[float]) -> Agreement:
    """Compares scores of the same traces in the same order.

    Args:
        one: Scores of at least one trace.
        other: The same tokens, scored in another way.
        ratios: Kept fractions, each in (0, 1].

    Raises:
        DataError: They are not scores of the same tokens, or none of them can be ranked.
    """
    pairs = list(zip(one, other, strict=False))
    same = len(one) == len(other) and all(a.id == b.id and np.array_equal(a.token_ids, b.token_ids) for a, b in pairs)
    if not same:
        raise DataError(
            f"scores of {len(one)} and {len(other)} traces are not of the same tokens in the same order. "
            "Fix: score the same data with the same tokenizer"
        )
    ranked = [(a, b) for a, b in pairs if min(len(np.unique(a.scores)), len(np.unique(b.scores))) > 1]
    if not ranked:
        raise DataError(f"none of {len(pairs)} traces has two tokens with different scores: nothing to compare")
    correlations = [float(spearmanr(a.scores, b.scores).statistic) for a, b in ranked]
    lengths = np.array([len(a.scores) for a, _ in pairs], dtype=np.int64)
    offsets = np.concatenate([scored.offsets for scored in one])
    orders = [
        rank_many(np.concatenate([scored.scores for scored in scores]), offsets, lengths) for scores in (one, other)
    ]
    changed = {}
    for ratio in ratios:
        kept, kept_by_other = (order.cut(np.full(len(lengths), ratio)) for order in orders)
        changed[ratio] = float((kept != kept_by_other).mean())
    return Agreement(
        num_traces=len(pairs),
        num_tokens=int(lengths.sum()),
        mean_rank_correlation=float(np.mean(correlations)),
        lowest_rank_correlation=min(correlations),
        changed_decisions=changed,
    )
