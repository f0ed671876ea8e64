"""Answer attention: the weight that the model's attention gives to a token once the thinking is over.

Computes  s_i = mean over layers, heads and queries t of  softmax_j<=t (q_t . k_j / sqrt(w))  at j = i
          over the topmost `num_layers` layers and all heads; queries are the tokens of the response
          (query=answer; in a chat with the end of the turn) or the last token of the closing (query=close)
Source    CRISP, arXiv 2604.17297: in the upper layers the token `</think>` is an anchor, whose attention separates
          the steps that matter from the others. CRISP pools this over steps and edits them; here it is a score per
          token. Its code is not public, so its choice of layers and heads is not verified.

In the observed layers the attention function also computes the softmax rows of the queries, a bounded number at a time:
memory grows with the length of the text and not with its square.

Shape suffixes: H heads, K key-value heads, L positions, Q query positions, W width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ConfigError, ModelError
from cotpress.records import Trace
from cotpress.scoring.config import TokenReadingConfig
from cotpress.scoring.reader import ModelScorer, Reader
from cotpress.settings import Count

if TYPE_CHECKING:
    import torch

_NAME = "cotpress_received_attention"
_WEIGHTS_AT_ONCE = 2**24
"""Largest number of attention weights held at a time (64 MB in float32)."""
_ALTERS_WEIGHTS = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments of attention functions that make the weights something else than the softmax of query times key."""


class Query(Enum):
    """Positions that attend."""

    answer = "answer"
    """All tokens of the written response."""
    close = "close"
    """The last token of the text that closes the thinking, e.g. `</think>`."""


@dataclass(kw_only=True, slots=True)
class AnswerAttentionConfig(TokenReadingConfig):
    """Attention paid to the token after the thinking (CRISP, arXiv 2604.17297)."""

    query: Query = Query.answer
    """Positions that attend."""
    num_layers: Count = 4
    """Topmost layers that are averaged."""


class AnswerAttentionScorer(ModelScorer[AnswerAttentionConfig]):
    """Mean attention weight from after the thinking."""

    def __init__(self, config: AnswerAttentionConfig, reader: Reader, model: torch.nn.Module) -> None:
        """Raises ConfigError if the model has not that many layers, ModelError if one sees only a window."""
        super().__init__(config, reader, model)
        from cotpress.modeling.loading import unwrapped

        check_layers(unwrapped(model), unwrapped(model).config, config.num_layers)
        self.reads_response = config.query is Query.answer

    def after_ids(self, trace: Trace) -> list[int]:
        """See `ModelScorer`; with `query=close` nothing follows the closing."""
        return super().after_ids(trace) if self.reads_response else self._reader.closing_ids()

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """See `TokenScorer`."""
        ids, keys, following = self.whole(trace)
        queries = following if self.reads_response else range(len(ids) - 1, len(ids))
        return received_attention(self._model, ids, queries=queries, keys=keys, num_layers=self.config.num_layers)


def check_layers(model: Any, config: Any, num_layers: int) -> None:
    """Check that the topmost layers of a model, or a class of models with this configuration, see the whole text.

    Raises:
        ConfigError: There are not that many layers.
        ModelError: One of them sees a window, or is not an attention layer.
    """
    from cotpress.modeling.architecture import keeps_state

    text: Any = config.get_text_config()
    if not 1 <= num_layers <= text.num_hidden_layers:
        raise ConfigError(
            f"scorer.num_layers: got {num_layers}, allowed: 1 to {text.num_hidden_layers}, the layers of the model"
        )
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        window = getattr(text, "sliding_window", None)
        kind = "full_attention" if window is None else f"sliding window of {window} tokens"
        kinds = ["a state"] if keeps_state(model, config) else [kind]
    odd = sorted(set(kinds[-num_layers:]) - {"full_attention"})
    if odd:
        raise ModelError(
            f"the topmost {num_layers} layers of {text.model_type} do not all attend to the whole text "
            f"({', '.join(odd)}): attention to earlier tokens would be zero by construction. Fix: a smaller "
            "scorer.num_layers if the layers above are full attention, or another model or scorer"
        )


def received_attention(
    model: torch.nn.Module, ids: Sequence[int], *, queries: range, keys: range, num_layers: int
) -> NDArray[np.float32]:
    """Attention weight on each key position, the mean over query positions, heads and the topmost layers.

    The model is in eval mode, with or without PEFT; the ids are those of the whole text; there is at least one query.
    Returns float32 `[len(keys)]`, in [0, 1]; softmax in float32 over all positions up to the query.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from cotpress.modeling.loading import split_head

    decoder: Any = split_head(model).decoder
    total = int(decoder.config.num_hidden_layers)
    layers = range(total - num_layers, total)
    num_heads: dict[int, int] = {}
    received_K = torch.zeros(len(keys), dtype=torch.float64)

    def attend(
        module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, *value_and_mask: Any, **options: Any
    ) -> Any:
        """Called by each attention layer with query `[1, H, L, W]` and key `[1, K, L, W]`."""
        layer = int(getattr(module, "layer_idx", -1))
        if layer in layers:
            odd = [name for name in _ALTERS_WEIGHTS if options.get(name) is not None]
            if odd:
                raise ModelError(f"{type(module).__name__} uses {', '.join(odd)}: its attention cannot be observed")
            scaling = options.get("scaling")
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            for weights_HQL in _weights(query[0], key[0], scaling, queries):
                received_K.add_(weights_HQL[:, :, keys.start : keys.stop].sum(dim=(0, 1)).cpu())
            num_heads[layer] = query.shape[1]
        return sdpa_attention_forward(module, query, key, *value_and_mask, **options)

    own = decoder.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[_NAME], ALL_MASK_ATTENTION_FUNCTIONS[_NAME] = attend, sdpa_mask
    try:
        decoder.set_attn_implementation(_NAME)
        with torch.inference_mode():
            decoder(input_ids=torch.tensor(ids, device=next(decoder.parameters()).device)[None], use_cache=False)
    finally:
        decoder.set_attn_implementation(own)
        del ALL_ATTENTION_FUNCTIONS[_NAME], ALL_MASK_ATTENTION_FUNCTIONS[_NAME]
    if num_heads.keys() != set(layers):
        raise ModelError(
            f"attention could be observed in layers {sorted(num_heads)} of {[*layers]}: this "
            "architecture does not use transformers' attention interface. Fix: choose another scorer"
        )
    received: NDArray[np.float32] = (received_K / (sum(num_heads.values()) * len(queries))).float().numpy()
    return received


def _weights(query_HLW: torch.Tensor, key_KLW: torch.Tensor, scaling: float, queries: range) -> Iterator[torch.Tensor]:
    """Yield the attention weights of some queries at a time, float32 `[H, Q, L]`."""
    import torch

    num_heads, length, width = query_HLW.shape
    at_once = max(_WEIGHTS_AT_ONCE // (num_heads * length), 1)
    key_KWL = key_KLW.float().transpose(1, 2)
    place_L = torch.arange(length, device=query_HLW.device)
    for first in range(queries.start, queries.stop, at_once):
        place_Q = place_L[first : min(first + at_once, queries.stop)]
        # Heads that share a key-value head are neighbours.
        rows = query_HLW[:, place_Q].float().reshape(len(key_KLW), -1, width)
        logits_HQL = (rows @ key_KWL * scaling).view(num_heads, len(place_Q), length)
        yield logits_HQL.masked_fill_(place_L > place_Q[:, None], float("-inf")).softmax(dim=-1)
