"""Goal-gradient importance: how strongly the likelihood of the response depends on a token's hidden state.

Computes  s_i = || d/dh_i^(l)  -log p(a | q, r) ||_1 ,   l = round(depth * L), at least 1 and at most L - 1
          h_i^(l) output of layer l of L at thinking token i, q condition, r thinking, a response or gold answer,
          in a chat with the end of the turn. The closing of the thinking is read but not part of the loss. No later
          token reads the topmost layer's output at a thinking token: its gradient is zero, so it is left out.
Source    Adaptive GoGI-Skip, arXiv 2505.08392, which chooses one middle layer per model; a share of the depth means the
          same in every model. No released code was found, and texts about the paper disagree on the norm (L1 or L2).
          Its threshold that moves with the entropy at run time is a selection and not part of the score.

The output of the observed layer is replaced by a detached copy, and no parameter requires a gradient, so the graph
holds the upper layers only; logits are made and differentiated a bounded number of rows at a time.

Shape suffixes: L positions, D hidden size, N target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ModelError
from cotpress.records import Trace
from cotpress.scoring.config import Target, TokenReadingConfig
from cotpress.scoring.reader import ModelScorer, Reader
from cotpress.settings import interval

if TYPE_CHECKING:
    import torch

_LOGITS_AT_ONCE = 2**24
"""Largest number of logits held at a time; their float32 copy, softmax and gradient take 64 MB each."""


@dataclass(kw_only=True, slots=True)
class GogiConfig(TokenReadingConfig):
    """Goal-gradient importance (arXiv 2505.08392)."""

    target: Target = Target.response
    """Text of the loss."""
    depth: Annotated[float, interval("(0, 1]")] = 0.5
    """Layer whose hidden states are observed, as a share of all layers, in (0, 1]; never the topmost one."""


class GogiScorer(ModelScorer[GogiConfig]):
    """Gradient norm at one layer."""

    reads_response = True
    passes = 3  # one forward, one backward

    def __init__(self, config: GogiConfig, reader: Reader, model: torch.nn.Module) -> None:
        """Raises ModelError if the model has a single layer."""
        super().__init__(config, reader, model)
        num_layers = len(decoder_layers(model))
        if num_layers < 2:
            raise ModelError(f"scorer {config.name}: the model has {num_layers} layer, allowed: 2 or more")
        self._layer = min(max(round(config.depth * num_layers), 1), num_layers - 1)

    def following(self, trace: Trace) -> str:
        """See `ModelScorer`: the response, or the gold answer alone."""
        return trace.answer if self.config.target is Target.answer else trace.response

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """See `TokenScorer`."""
        ids, thinking, following = self.whole(trace)
        return hidden_gradient_norms(self._model, ids, layer=self._layer, observed=thinking, target=following)


def decoder_layers(model: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """The layers of a causal language model, lowest first; raises ModelError if it keeps no list of them."""
    import torch

    from cotpress.modeling.loading import split_head

    decoder = split_head(model).decoder
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise ModelError(
            f"{type(decoder).__name__} has no list of decoder layers to observe. Fix: choose another scorer"
        )
    return list(layers)


def hidden_gradient_norms(
    model: torch.nn.Module, ids: Sequence[int], *, layer: int, observed: range, target: range
) -> NDArray[np.float32]:
    """L1 norms of the gradient of -log p(target | everything before it) with respect to hidden states.

    The states are the output of one layer, counted from 1 (of the topmost one before the final norm), at the observed
    positions; the loss is summed over the target's positions, of which none is 0. The model is in eval mode, with or
    without PEFT. Returns float32 `[len(observed)]`, in nats per unit of the hidden states.
    """
    import torch

    from cotpress.modeling.loading import split_head

    if not 0 < target.start < target.stop <= len(ids):
        raise ValueError(f"the target {target} is empty, outside the sequence, or has nothing before it")
    split = split_head(model)
    ids_L = torch.tensor(ids, device=next(split.decoder.parameters()).device)
    leaves: list[torch.Tensor] = []

    def cut(_module: torch.nn.Module, _inputs: Any, output: Any) -> Any:
        # Some architectures return more than the hidden states.
        hidden, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        leaves.append(hidden.detach().requires_grad_())
        return leaves[-1] if rest is None else (leaves[-1], *rest)

    with torch.enable_grad(), decoder_layers(model)[layer - 1].register_forward_hook(cut):
        last_LD = split.decoder(input_ids=ids_L[None], use_cache=False).last_hidden_state[0]
        # Position t predicts token t + 1.
        hidden_ND = last_LD[target.start - 1 : target.stop - 1]
        slope_ND = _slope_of_loss(split.head, hidden_ND.detach(), ids_L[target.start : target.stop])
        [gradient_1LD] = torch.autograd.grad(hidden_ND, leaves, slope_ND)
    norms: NDArray[np.float32] = gradient_1LD[0, observed.start : observed.stop].float().abs().sum(dim=1).cpu().numpy()
    return norms


def _slope_of_loss(head: torch.nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed negative log-likelihood with respect to the last hidden states, `[N, D]`."""
    import torch

    vocabulary = int(head.weight.shape[0])  # type: ignore[index]
    rows = max(_LOGITS_AT_ONCE // vocabulary, 1)
    slopes: list[torch.Tensor] = []
    for states_ND, chosen_N in zip(torch.split(hidden_ND, rows), torch.split(targets_N, rows), strict=True):
        states_ND.requires_grad_()
        loss = torch.nn.functional.cross_entropy(head(states_ND).float(), chosen_N, reduction="sum")
        slopes += torch.autograd.grad(loss, states_ND)
    return torch.cat(slopes)
