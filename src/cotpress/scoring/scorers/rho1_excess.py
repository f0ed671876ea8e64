"""Excess loss: what the reference model explains better than the base model.

Computes  s_i = log p_RM(x_i | c, x_<i) - log p_base(x_i | c, x_<i)  =  CE_base(x_i) - CE_RM(x_i)      in nats
Source    Rho-1, arXiv 2404.07965, equation 3, where it chooses the tokens that a model is pre-trained on.

Pooled by step it is the scorer `reference_gain` of our own: a step is kept whole if training on valuable thinking made
it more likely. The released code of Rho-1 has no scorer; there is nothing to deviate from.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.logprobs import token_logprobs
from cotpress.records import Trace
from cotpress.scoring.config import Rho1Config
from cotpress.scoring.reader import Reader, ReadingScorer


class Rho1Scorer(ReadingScorer):
    """Log-probability ratio of two models."""

    reads_windows = True

    def __init__(self, config: Rho1Config, reader: Reader, reference: torch.nn.Module, base: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._reference, self._base = reference, base

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        by_reference, by_base = (
            token_logprobs(model, self.inputs(traces), self._reader.tokens_per_batch)
            for model in (self._reference, self._base)
        )
        for explained, before in zip(by_reference, by_base, strict=True):
            yield explained - before
