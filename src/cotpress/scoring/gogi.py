"""Goal-gradient importance: how strongly the likelihood of the response depends on a token's hidden state.

Computes  s_i = || d/dh_i^(l)  -log p(a | q, r) ||_1 ,   l = round(depth * L), at least 1 and at most L - 1
          h_i^(l) output of layer l of L at thinking token i, q condition, r thinking, a response or gold answer
Source    Adaptive GoGI-Skip, arXiv 2505.08392, which differentiates the loss of the final answer at one middle layer
          chosen per model; here the layer is a share of the depth, so that it means the same in every model.

No later token reads what the topmost layer says about a thinking token, so its gradient is zero and it is left out.
-log p is summed over the tokens of a; in the chat template the end of the turn is the last of them. The closing of the
thinking is read between r and a but not part of the loss.

No released code was found to check against, and texts about the paper disagree on the norm (L1 or L2). Its second
half, the threshold that moves with the entropy at run time, is a selection and not part of the score.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.errors import ModelError
from cotpress.modeling.hidden_gradients import decoder_layers, hidden_gradient_norms
from cotpress.records import Trace
from cotpress.scoring.config import GogiConfig, Target
from cotpress.scoring.reader import Reader, ReadingScorer


class GogiScorer(ReadingScorer):
    """Gradient norm at one layer."""

    reads_response = True

    def __init__(self, config: GogiConfig, reader: Reader, model: torch.nn.Module) -> None:
        """Raises ModelError if the model has a single layer."""
        super().__init__(config, reader)
        num_layers = len(decoder_layers(model))
        if num_layers < 2:
            raise ModelError(f"scorer {config.name}: the model has {num_layers} layer, allowed: 2 or more")
        self._model, self._target = model, config.target
        self._layer = min(max(round(config.depth * num_layers), 1), num_layers - 1)

    def following(self, trace: Trace) -> str:
        """See `ReadingScorer`: the response, or the gold answer alone."""
        return trace.answer if self._target is Target.answer else trace.response

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`; one trace at a time."""
        for trace in traces:
            whole = self.whole(trace)
            yield hidden_gradient_norms(
                self._model, whole.ids, layer=self._layer, observed=whole.thinking, target=whole.following
            )
