"""Reference likelihood: keep what the reference model would have written itself.

Computes  s_i = log p_RM(x_i | c, x_<i),   replaced by the mean over i's word (or step) unless pooling=token
Source    ours. The reference model was trained on the valuable part of thinking texts alone, so what it finds likely
          is what a compressed text would say next; the ratio of CTS divides that information out.

It is the opposite order of self_information with the same model. There is no released code to deviate from.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.logprobs import token_logprobs
from cotpress.records import Trace
from cotpress.scoring.config import ReferenceLikelihoodConfig
from cotpress.scoring.reader import Reader, ReadingScorer


class ReferenceLikelihoodScorer(ReadingScorer):
    """Log-probability under the reference model."""

    reads_windows = True

    def __init__(self, config: ReferenceLikelihoodConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model = model

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        yield from token_logprobs(self._model, self.inputs(traces), self._reader.tokens_per_batch)
