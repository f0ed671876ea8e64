"""Several sequences of different length as one row without padding.

Linear layers see one long row; positions restart with every sequence, and no token attends beyond the borders of its
own, so every sequence gets exactly the hidden states that it gets alone. How the borders are kept depends on
`model.attention`:

    sdpa                 causal attention over one sequence after the other: never a mask, never the square of the row
    flash_attention_2    its kernel for sequences of different length gets the borders
    flex_attention       a block mask that transformers makes from the positions; blocks across borders are skipped
    eager                a dense mask that transformers makes from the positions

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
"""Keyword under which the lengths travel through the decoder's layers to the attention function, and with a
checkpointed layer to its second run in the backward pass."""
_ALTERS_WEIGHTS = ("softcap", "s_aux", "position_bias")
"""Arguments of attention functions that scaled dot-product attention per sequence would have to know about."""
_KEEP_BORDERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers in which a token sees what the attention function lets it see, and nothing else."""


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
        """Where each sequence begins in the row."""
        return tuple(accumulate(self.lengths[:-1], initial=0))

    def to(self, device: torch.device | str) -> "Packed":
        """The same on another device."""
        return Packed(ids=self.ids.to(device), positions=self.positions.to(device), lengths=self.lengths)


def pack(sequences: Sequence[Sequence[int] | NDArray[np.integer[Any]]]) -> Packed:
    """Sequences of token ids, each of at least one token, as one row; on the CPU."""
    lengths = tuple(len(sequence) for sequence in sequences)
    if not lengths or min(lengths) == 0:
        raise ValueError(f"a pack needs sequences of at least one token, got the lengths {lengths}")
    ids = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    positions = np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])
    return Packed(ids=torch.from_numpy(ids)[None], positions=torch.from_numpy(positions)[None], lengths=lengths)


def plan_packs(lengths: Sequence[int], tokens_per_pack: int) -> list[list[int]]:
    """Indices of sequences that go into one pack, longest first; a sequence over the budget is a pack by itself."""
    packs: list[list[int]] = []
    room = -1
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > room:
            packs.append([])
            room = tokens_per_pack
        packs[-1].append(index)
        room -= lengths[index]
    return packs


def can_pack(decoder: torch.nn.Module) -> bool:
    """True if every layer is attention that leaves its arithmetic to an exchangeable function, which packing needs."""
    return _what_mixes(decoder) is None


def _what_mixes(decoder: torch.nn.Module) -> str | None:
    """What would let sequences of one row see each other; None if nothing does.

    That an attention function can be exchanged says nothing about layers that are no attention: a convolution or a
    linear attention carries its state from one sequence into the next, and no mask stops it.
    """
    if not getattr(decoder, "_supports_attention_backend", False):
        return "does not use transformers' attention interface"
    kinds = set(getattr(decoder.config, "layer_types", None) or ())
    odd = ["a state"] if getattr(decoder, "_is_stateful", False) else sorted(kinds - _KEEP_BORDERS)
    return f"has layers with {', '.join(odd)}, which know no borders between texts" if odd else None


def packed_states(decoder: torch.nn.Module, packed: Packed) -> torch.Tensor:
    """Last hidden states of every token, `[T, D]`, each as if its sequence were alone; differentiable.

    Activation checkpointing may be on: a layer's second run sees the borders too.

    Args:
        decoder: Body of a causal language model (`split_head`).
        packed: On the decoder's device.

    Raises:
        ModelError: The architecture computes its attention in a way that cannot be kept within borders.
    """
    if len(packed.lengths) == 1:
        states: torch.Tensor = decoder(input_ids=packed.ids, use_cache=False).last_hidden_state[0]
        return states
    if (mixes := _what_mixes(decoder)) is not None:
        raise ModelError(
            f"{type(decoder).__name__} {mixes}, so several texts cannot go through it as one row. "
            "Fix: trainer.tokens_per_batch=1, which reads one text at a time"
        )
    config: Any = decoder.config
    kept_apart = _borders(str(config._attn_implementation), packed)
    output = decoder(input_ids=packed.ids, position_ids=packed.positions, use_cache=False, **kept_apart)
    row: torch.Tensor = output.last_hidden_state[0]
    return row


def _borders(attention: str, packed: Packed) -> dict[str, Any]:
    """What the decoder is told besides ids and positions, so that sequences stay apart."""
    if attention == "sdpa":
        _teach_sdpa()
        # A mask of four dimensions is handed on as it is: this one says "made already". It is never looked at, and
        # too small for an attention function that would.
        return {_LENGTHS: packed.lengths, "attention_mask": packed.ids.new_zeros((1, 1, 0, 0), dtype=torch.bool)}
    if attention.startswith("flash_attention"):
        # Otherwise each layer finds the borders in the positions anew and waits for the device.
        ends = torch.tensor([*packed.starts, sum(packed.lengths)], dtype=torch.int32, device=packed.ids.device)
        longest = max(packed.lengths)
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return {}  # eager and flex_attention: transformers makes the mask from the positions


def _teach_sdpa() -> None:
    """Scaled dot-product attention of this process keeps to the borders where it is told of some."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS["sdpa"] = _sdpa


def _sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query `[1, H, T, W]` to key and value `[1, K, T, W]`: `[1, T, H, W]`.

    Without borders it is transformers' own function.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    lengths: tuple[int, ...] | None = options.pop(_LENGTHS, None)
    if lengths is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return plain
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
    """Which positions see which in layers that look back `window` tokens, bool `[1, 1, L, L]`; None if all of them."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=query.device)
    distance = place[:, None] - place
    return ((distance >= 0) & (distance < window))[None, None]
