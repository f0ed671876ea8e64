"""Answer attention: what the model looks back at once the thinking is over.

Computes  s_i = mean over layers, heads and queries t of  softmax_j<=t (q_t . k_j / sqrt(w))  at j = i
          over the topmost `num_layers` layers and all heads; queries are the tokens of the response
          (query=answer) or the last token of the text that closes the thinking (query=close)
Source    CRISP, arXiv 2604.17297: in the upper layers the token `</think>` is an anchor, and its attention tells the
          steps that matter from those that do not. Attention also predicts the deletion order of arXiv 2601.03066.

In the chat template the end of the turn counts as the last token of the response. With query=close the response is
not read at all, since nothing before it can see it.

CRISP pools this over steps and lets a search over step operators (keep, delete, merge, rewrite) use it; here it is a
score per token, pooled by scorer.pooling if asked. Its code could not be looked at, so which layers and heads it
averages is not verified; texts about it say the deep ones.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.errors import ConfigError
from cotpress.modeling.hidden_gradients import decoder_layers
from cotpress.modeling.received_attention import received_attention, refuse_windows
from cotpress.records import Trace
from cotpress.scoring.config import AnswerAttentionConfig, Query
from cotpress.scoring.reader import Reader, ReadingScorer


class AnswerAttentionScorer(ReadingScorer):
    """Mean attention weight from after the thinking."""

    def __init__(self, config: AnswerAttentionConfig, reader: Reader, model: torch.nn.Module) -> None:
        """Raises ConfigError if the model has not that many layers, ModelError if they see only a window."""
        super().__init__(config, reader)
        available = len(decoder_layers(model))
        if not 1 <= config.num_layers <= available:
            raise ConfigError(
                f"scorer.num_layers: got {config.num_layers}, allowed: 1 to {available}, the layers of the model"
            )
        refuse_windows(model, config.num_layers)
        self._model, self._num_layers, self._query = model, config.num_layers, config.query
        self.reads_response = config.query is Query.answer

    def after_ids(self, trace: Trace) -> list[int]:
        """See `ReadingScorer`; from the closing, nothing beyond it is seen."""
        return super().after_ids(trace) if self._query is Query.answer else self._reader.closing_ids()

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`; one trace at a time."""
        for trace in traces:
            whole = self.whole(trace)
            last = range(len(whole.ids) - 1, len(whole.ids))
            queries = whole.following if self._query is Query.answer else last
            yield received_attention(
                self._model, whole.ids, queries=queries, keys=whole.thinking, num_layers=self._num_layers
            )
