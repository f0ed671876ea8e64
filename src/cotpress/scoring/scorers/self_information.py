"""Self-information: how surprising a token is.

Computes  s_i = -log p(x_i | c, x_<i)      in nats
Source    Selective-Context, arXiv 2310.06201; LLMLingua, arXiv 2310.05736; the `LLMLingua` rows of arXiv 2505.17827
          are this score with c = nothing, with the reference model and with the untrained base model.

The condition c is a setting: none | answer | question | question_answer. The released code (LLMLingua 0.2.2)
deviates as it does for CTS, see cts.py.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.logprobs import token_logprobs
from cotpress.records import Trace
from cotpress.scoring.config import SelfInformationConfig
from cotpress.scoring.reader import Reader, ReadingScorer


class SelfInformationScorer(ReadingScorer):
    """Negative log-probability."""

    reads_windows = True

    def __init__(self, config: SelfInformationConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model = model

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        for logprobs in token_logprobs(self._model, self.inputs(traces), self._reader.tokens_per_batch):
            yield -logprobs
