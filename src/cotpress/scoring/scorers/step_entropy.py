"""Step entropy: steps that the model was open about are kept whole, steps that followed by themselves go first.

Computes  s_i = H(S | c, x_<S) = sum over tokens j of i's step S of  H(p(. | c, x_<j))      in nats
Source    arXiv 2508.03346: the entropy of a step is the sum of its token entropies; the 80 % of the steps that are
          lowest in it can be pruned.

The sum grows with the length of a step, as in the paper: long steps are kept before short ones. The mean instead is
`scorer=entropy scorer.pooling=step`. A step is a sentence or a line (modeling/segments.py); the paper's are paragraphs.

The released code (staymylove/COT_Compresstion_via_Step_entropy) deviates: it samples the trace and takes
-p(x_j) log p(x_j) of the sampled token alone, which is one summand of the entropy, averages it over the step instead
of summing, ends a step only where a token is exactly a blank line, merges steps of equal text, and writes [SKIP] for
what it prunes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.logprobs import token_entropies
from cotpress.modeling.segments import unit_ids
from cotpress.records import Trace, Unit
from cotpress.scoring.config import StepEntropyConfig
from cotpress.scoring.reader import Reader, ReadingScorer


class StepEntropyScorer(ReadingScorer):
    """Sum of the token entropies of a step, for each of its tokens."""

    reads_windows = True

    def __init__(self, config: StepEntropyConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model = model

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        by_token = token_entropies(self._model, self.inputs(traces), self._reader.tokens_per_batch)
        for trace, entropies in zip(traces, by_token, strict=True):
            steps = unit_ids(Unit.step, trace.thinking, self.tokens(trace)[1])
            yield np.bincount(steps, weights=entropies)[steps].astype(np.float32)
