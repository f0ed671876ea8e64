"""Packing: several sequences of different length as one row without padding.

Linear layers process one long row. Positions restart with each sequence, and attention stays within the sequence, so
that each sequence has the same hidden states as in a pass of its own. The borders depend on `model.attention`:

    sdpa                 causal attention over one sequence after the other, without a mask
    flash_attention_2    its kernel for sequences of different length receives the borders
    flex_attention       transformers derives a block mask from the positions; blocks across borders are skipped
    eager                transformers derives a dense mask from the positions

Shape suffixes: T positions of the row, D hidden size, H heads, K key-value heads, W width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.errors import ModelError

_LENGTHS = "packed_lengths"
"""Keyword that passes the lengths through the decoder's layers, also recomputed ones, to the attention function."""
_ALTERS_WEIGHTS = ("softcap", "s_aux", "position_bias")
"""Arguments that change attention weights, which `_sdpa` does not support."""
_KEEP_BORDERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers in which tokens exchange information through the attention function only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Sequences one after the other.

    Attributes:
        ids: int64 `[1, T]`.
        positions: int64 `[1, T]`, from 0 in each sequence.
        lengths: Tokens of each sequence, all at least 1; their sum is T.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    lengths: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """Index in the row of the first token of each sequence."""
        return tuple(accumulate(self.lengths[:-1], initial=0))

    def to(self, device: torch.device | str) -> "Packed":
        """Copy to another device."""
        return Packed(ids=self.ids.to(device), positions=self.positions.to(device), lengths=self.lengths)


def pack(sequences: Sequence[Sequence[int] | NDArray[np.integer[Any]]]) -> Packed:
    """Concatenate sequences of token ids, each of at least one token, on the CPU."""
    lengths = tuple(len(sequence) for sequence in sequences)
    if not lengths or min(lengths) == 0:
        raise ValueError(f"a pack needs sequences of at least one token, got the lengths {lengths}")
    ids = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    positions = np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])
    return Packed(ids=torch.from_numpy(ids)[None], positions=torch.from_numpy(positions)[None], lengths=lengths)


def plan_packs(lengths: Sequence[int], tokens_per_pack: int) -> list[list[int]]:
    """Group indices of sequences into packs, longest first; a sequence over the budget has a pack of its own."""
    packs: list[list[int]] = []
    room = -1
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > room:
            packs.append([])
            room = tokens_per_pack
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def packing_obstacle(decoder: torch.nn.Module) -> str | None:
    """Property of the decoder that makes packing impossible, in words; None if there is none.

    Packing requires that every layer is attention with an exchangeable attention function: a convolution or linear
    attention layer carries its state from one sequence into the next, and no mask prevents it.
    """
    if not getattr(decoder, "_supports_attention_backend", False):
        return "does not use transformers' attention interface"
    kinds = set(getattr(decoder.config, "layer_types", None) or ())
    odd = ["a state"] if getattr(decoder, "_is_stateful", False) else sorted(kinds - _KEEP_BORDERS)
    return f"has layers with {', '.join(odd)}, which carry information between texts" if odd else None


def packed_inputs(decoder: torch.nn.Module, packed: Packed) -> dict[str, Any]:
    """Arguments with which a decoder reads the pack as in separate passes over its sequences.

    `decoder(**packed_inputs(decoder, packed)).last_hidden_state[0]` holds the states of all tokens, `[T, D]`. The
    decoder is the body of a causal language model (`split_head`); activation checkpointing may be on.

    Raises:
        ModelError: The architecture cannot keep its attention within the borders.
    """
    inputs: dict[str, Any] = {"input_ids": packed.ids, "use_cache": False}
    if len(packed.lengths) == 1:
        return inputs
    if (reason := packing_obstacle(decoder)) is not None:
        raise ModelError(
            f"{type(decoder).__name__} {reason}, so several texts cannot go through it as one row. "
            "Fix: trainer.tokens_per_batch=1, which reads one text at a time"
        )
    config: Any = decoder.config
    borders = _border_arguments(str(config._attn_implementation), packed)
    return {**inputs, "position_ids": packed.positions, **borders}


def _border_arguments(attention: str, packed: Packed) -> dict[str, Any]:
    """Arguments of the decoder, besides ids and positions, that keep the sequences apart."""
    if attention == "sdpa":
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS["sdpa"] = _sdpa
        # transformers passes a four-dimensional mask on unchanged and so builds none. `_sdpa` ignores this one, and
        # any other attention function would fail on its size.
        return {_LENGTHS: packed.lengths, "attention_mask": packed.ids.new_zeros((1, 1, 0, 0), dtype=torch.bool)}
    if attention.startswith("flash_attention"):
        # Without these each layer derives the borders from the positions and waits for the device.
        ends = torch.tensor([*packed.starts, sum(packed.lengths)], dtype=torch.int32, device=packed.ids.device)
        longest = max(packed.lengths)
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return {}  # eager and flex_attention: transformers derives the mask from the positions


def _sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query `[1, H, T, W]` to key and value `[1, K, T, W]` within each sequence: `[1, T, H, W]`.

    Replaces transformers' function of this process, and calls it unchanged where no lengths are given.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    lengths: tuple[int, ...] | None = options.pop(_LENGTHS, None)
    if lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    odd = [name for name in _ALTERS_WEIGHTS if options.get(name) is not None]
    if odd:
        raise ModelError(
            f"{type(module).__name__} uses {', '.join(odd)}: several texts cannot go through it as one row with "
            "model.attention=sdpa. Fix: model.attention=eager, or trainer.tokens_per_batch=1"
        )
    window: int | None = options.get("sliding_window")
    parts = zip(*(torch.split(states, list(lengths), dim=2) for states in (query, key, value)), strict=True)
    attended = [
        sdpa_attention_forward(module, q, k, v, _window_mask(q, window), **{**options, "is_causal": True})[0]
        for q, k, v in parts
    ]
    return torch.cat(attended, dim=1), None


def _window_mask(query: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """Causal mask of a layer with a sliding window, bool `[1, 1, L, L]`; None if the window covers the sequence."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    everything = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device)
    return everything.tril().triu(1 - window)
