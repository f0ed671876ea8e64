"""CTS, Conditional Token Selection: how much easier a thinking token becomes once the condition is known.

Computes  s_i = log p_RM(x_i | c, x_<i) - log p_RM(x_i | b, x_<i)   for thinking tokens x_i, reference model RM
Source    arXiv 2505.17827, section 3.2 (Score(x_i^thk | x^ans, x_<i^thk)); the paper's figure conditions on the
          written answer, texts about it on question and answer, so c is a setting: answer | question |
          question_answer. The paper's b is nothing; c = question_answer with b = question asks what the answer adds
          to the question.

Both passes are written alike (see reader.py), so they differ in the condition and in nothing else.

The released code (LLMLingua 0.2.2, rank_method=longllmlingua, condition_compare=True) deviates: it keeps a token by
the score of the NEXT token, scores later windows on a prefix that is already compressed, uses no chat template
although its reference model was trained with one, no bos, and cuts the thinking at 5,000 tokens silently. Here
every token has its own score on the full text, and what does not fit the context is read in overlapping windows, the
same ones in both passes, and counted in the manifest.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.logprobs import token_logprobs
from cotpress.records import Trace
from cotpress.scoring.config import Condition, CtsConfig
from cotpress.scoring.reader import Reader, ReadingScorer


class CtsScorer(ReadingScorer):
    """Log-probability ratio of the reference model with and without the condition."""

    reads_windows = True

    def __init__(self, config: CtsConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model, self._baseline = model, config.baseline

    def conditions(self) -> tuple[Condition, ...]:
        """See `ReadingScorer`."""
        return (self._condition, self._baseline)

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        logprobs = token_logprobs(self._model, self.inputs(traces), self._reader.tokens_per_batch)
        for conditioned, unconditioned in zip(logprobs, logprobs, strict=True):  # the two readings of one trace
            yield conditioned - unconditioned
