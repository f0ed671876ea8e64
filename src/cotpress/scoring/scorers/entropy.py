"""Entropy: how open it was what would come next.

Computes  s_i = H(p(. | c, x_<i)) = - sum over words v of  p(v | c, x_<i) log p(v | c, x_<i)      in nats
Source    the entropy criterion of arXiv 2606.21704, by token; pooled by step it keeps the steps of high mean entropy.

Unlike self_information it does not look at the token that came: a certain model that was wrong gives it 0. The
condition c is a setting: none | answer | question | question_answer. No released code is known to deviate from.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.logprobs import token_entropies
from cotpress.records import Trace
from cotpress.scoring.config import EntropyConfig
from cotpress.scoring.reader import Reader, ReadingScorer


class EntropyScorer(ReadingScorer):
    """Entropy of the prediction of each token."""

    reads_windows = True

    def __init__(self, config: EntropyConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model = model

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        yield from token_entropies(self._model, self.inputs(traces), self._reader.tokens_per_batch)
