"""CTS, Conditional Token Selection: how much easier a thinking token becomes once the condition is known.

Computes  s_i = log p_RM(x_i | c, x_<i) - log p_RM(x_i | b, x_<i)   for thinking tokens x_i, reference model RM
Source    arXiv 2505.17827, section 3.2 (Score(x_i^thk | x^ans, x_<i^thk)); the paper's figure conditions on the
          written answer, texts about it on question and answer, so c is a setting: answer | question |
          question_answer. The paper has no baseline b; `question` asks what the answer adds to it.

Both passes are written alike (see reader.py), so they differ in the condition and in nothing else.

The released code (LLMLingua 0.2.2, rank_method=longllmlingua, condition_compare=True) deviates: it keeps a token by
the score of the NEXT token, scores later windows on a prefix that is already compressed, uses no chat template
although its reference model was trained with one, no bos, and cuts the thinking at 5,000 tokens silently. Here
every token has its own score on the full text, and what does not fit is refused and counted.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.errors import ConfigError
from cotpress.modeling.logprobs import ScoreInput, token_logprobs
from cotpress.records import Trace
from cotpress.scoring.config import Condition, CtsConfig
from cotpress.scoring.reader import Reader, ReadingScorer

BASELINES = (Condition.none, Condition.question)


class CtsScorer(ReadingScorer):
    """Log-probability ratio of the reference model with and without the condition."""

    def __init__(self, config: CtsConfig, reader: Reader, model: torch.nn.Module) -> None:
        """Raises ConfigError if condition and baseline are the same, or the baseline is none of `BASELINES`."""
        super().__init__(config, reader)
        if config.baseline not in BASELINES:
            allowed = ", ".join(b.value for b in BASELINES)
            raise ConfigError(f"scorer.baseline: got '{config.baseline.value}', allowed: {allowed}")
        if config.condition is config.baseline:
            raise ConfigError(
                f"scorer.condition: got '{config.condition.value}', which is also scorer.baseline: every score would "
                "be 0. Fix: scorer.condition=answer"
            )
        self._model, self._baseline = model, config.baseline

    def conditions(self) -> tuple[Condition, ...]:
        """See `ReadingScorer`."""
        return (self._condition, self._baseline)

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        logprobs = token_logprobs(self._model, self._inputs(traces), self._reader.tokens_per_batch)
        for _ in traces:
            conditioned, unconditioned = next(logprobs), next(logprobs)
            yield conditioned - unconditioned

    def _inputs(self, traces: Sequence[Trace]) -> Iterator[ScoreInput]:
        for trace in traces:
            for condition in self.conditions():
                yield self._reader.input(condition, trace)
