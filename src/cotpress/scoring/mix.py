"""Mix: a weighted mean of what other scorers say.

Computes  s_i = sum over parts p of  w_p * rank_p(i)      / sum over p of w_p
          rank_p(i) = share of the trace's tokens that part p scores below i, ties in the middle; in (0, 1)
Source    ours. Ranks, because the parts' scores have units and spreads that cannot be added.

The parts may have different tokenizers: their scores meet on the base model's tokens through characters.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cotpress.errors import ConfigError
from cotpress.modeling.alignment import project_scores, tokenize_with_offsets
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import Scorer, TokenScorer
from cotpress.scoring.config import MixConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MixScorer(TokenScorer):
    """Weighted mean of ranks."""

    def __init__(self, config: MixConfig, parts: Mapping[str, Scorer], tokenizer: "PreTrainedTokenizerBase") -> None:
        """Raises ConfigError if a part has no weight or a weight no part, or the weights sum to nothing."""
        super().__init__(config.name, tokenizer)
        weights = config.weights
        if set(weights) != set(parts):
            raise ConfigError(
                f"scorer.weights: got weights for {sorted(weights)}, but scorer.parts are {sorted(parts)}; both must "
                "have the same names. Fix: +scorer.weights.NAME=1.0, or ~scorer.weights.NAME"
            )
        if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or sum(weights.values()) <= 0:
            raise ConfigError(f"scorer.weights: got {dict(weights)}, allowed: finite numbers >= 0, one above 0")
        # A part without weight costs no forward pass.
        self._parts = {name: part for name, part in parts.items() if weights[name] > 0}
        self._weights = weights

    def refusal(self, trace: Trace) -> str | None:
        """Refuses what one of the parts refuses."""
        return next((why for part in self._parts.values() if (why := part.refusal(trace)) is not None), None)

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        streams = [part.score(traces) for part in self._parts.values()]
        weights = np.array([self._weights[name] for name in self._parts])
        for trace, *scored in zip(traces, *streams, strict=True):
            ranks = np.stack([self._ranks(trace, record) for record in scored])
            yield (weights @ ranks / weights.sum()).astype(np.float32)

    def _ranks(self, trace: Trace, record: ScoredTrace) -> NDArray[np.float64]:
        scores = record.scores
        if record.tokenizer != self._fingerprint:
            _, offsets = tokenize_with_offsets(self._tokenizer, trace.thinking)
            scores = project_scores(record.offsets, record.scores, offsets, len(trace.thinking))
        ranks: NDArray[np.float64] = (rankdata(scores) - 0.5) / max(len(scores), 1)
        return ranks
