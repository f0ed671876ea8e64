"""Mix: a weighted mean of what other scorers say.

Computes  s_i = sum over parts p of  w_p * rank_p(i)      / sum over p of w_p
          rank_p(i) = (number of the trace's tokens that p scores below i + half of those that it scores like i) / n
Source    ours. Ranks, because the parts' scores have units and spreads that cannot be added.

The parts may have different tokenizers: their scores meet on the base model's tokens through characters. A part may be
a mix itself. Two tokens that a part scores alike up to rounding may change ranks with the batch they are computed in.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cotpress.modeling.alignment import project_scores
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import NO_TOKENS, Scorer, TokenScorer
from cotpress.scoring.config import MixConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MixScorer(TokenScorer):
    """Weighted mean of ranks.

    Args:
        config: Its weights of the parts given.
        parts: Scorers by the names they have in the settings.
        tokenizer: In whose tokens the mix is scored.
    """

    def __init__(self, config: MixConfig, parts: Mapping[str, Scorer], tokenizer: "PreTrainedTokenizerBase") -> None:
        super().__init__(config.name, tokenizer)
        self._parts = list(parts.values())
        self._weights = np.array([config.weights[name] for name in parts])

    def refusal(self, trace: Trace) -> str | None:
        """Refuses what one of the parts refuses."""
        for part in self._parts:
            why = part.refusal(trace) if part.num_tokens(trace) else NO_TOKENS
            if why is not None:
                return why
        return None

    def in_windows(self, trace: Trace) -> bool:
        """True if one of the parts reads it so."""
        return any(part.in_windows(trace) for part in self._parts)

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        streams = [part.score(traces) for part in self._parts]
        for trace, *scored in zip(traces, *streams, strict=True):
            ranks = np.stack([self._ranks(trace, record) for record in scored])
            yield (self._weights @ ranks / self._weights.sum()).astype(np.float32)

    def _ranks(self, trace: Trace, record: ScoredTrace) -> NDArray[np.float64]:
        scores = record.scores
        if record.tokenizer != self._fingerprint:
            scores = project_scores(record.offsets, record.scores, self.tokens(trace)[1], len(trace.thinking))
        ranks: NDArray[np.float64] = (rankdata(scores) - 0.5) / max(len(scores), 1)
        return ranks
