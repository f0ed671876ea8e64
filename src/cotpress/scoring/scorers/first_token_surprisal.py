"""First-token surprisal: steps that begin unexpectedly are kept whole.

Computes  s_i = -log p(x_f | c, x_<f)      in nats, f = first token of i's step that is not white space alone
Source    arXiv 2508.05988 (ASAP): where a line of thought branches, the first token of the step is hard to foresee;
          steps of low first-token surprisal are pruned first.

ASAP prunes with a language model's help before (anchor-guided pruning); this is its second stage alone. A step is a
sentence or a line (modeling/segments.py); the paper's are paragraphs. White space before a step says how the line
before it ended, so it is not what the step begins with.

The released code (Zengwh02/ASAP) deviates: it splits at blank lines, strips what it splits and scores the text joined
again, finds the first token of a paragraph by tokenizing what stands before it plus one for bos, which is off by one
without bos and wherever a token reaches over the border, and removes the first of several equal paragraphs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.logprobs import token_logprobs
from cotpress.modeling.segments import is_blank, unit_ids
from cotpress.records import Trace, Unit
from cotpress.scoring.config import FirstTokenSurprisalConfig
from cotpress.scoring.reader import Reader, ReadingScorer


class FirstTokenSurprisalScorer(ReadingScorer):
    """Negative log-probability of the token that a step begins with, for each token of the step."""

    reads_windows = True

    def __init__(self, config: FirstTokenSurprisalConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model = model

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        by_token = token_logprobs(self._model, self.inputs(traces), self._reader.tokens_per_batch)
        for trace, logprobs in zip(traces, by_token, strict=True):
            yield -logprobs[_first_tokens(trace.thinking, self.tokens(trace)[1])]


def _first_tokens(text: str, offsets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Index of the token that each token's step begins with, int64 `[n]`."""
    steps = unit_ids(Unit.step, text, offsets)
    # Stable, so the first entry of a step is its first visible token, or its first token if none is visible.
    order = np.lexsort((is_blank(text, offsets), steps))
    firsts = order[np.searchsorted(steps[order], steps)]
    return np.asarray(firsts, dtype=np.int64)
