"""Per-token log-probabilities and entropies of given texts under a causal language model.

    token_logprobs     log p(target_i | context, target_<i)
    token_entropies    H(p(. | context, target_<i))

The body of the model runs over texts packed without padding, its head on the scored positions only. A text longer than
the model's context is read in overlapping windows.

Shape suffixes: T positions of a pack, D hidden size, N scored positions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.devices.memory import smaller_batches
from cotpress.modeling.head import target_entropies, target_logprobs
from cotpress.modeling.loading import SplitModel, is_compiled, split_head
from cotpress.modeling.packing import can_pack, pack, packed_states, plan_packs

BATCHES_AHEAD = 8
"""Input that is read ahead to be sorted by length, in batches."""

WINDOW_OVERLAP = 0.5
"""Fraction of a window that the previous window has scored and that is read again as context."""

_CPU_PACK_TOKENS = 1024
"""Longest pack on a CPU, in tokens: packing speeds up short texts only."""

_Measure = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""Function of a head, hidden states `[N, D]` and target tokens, int64 `[N]`; returns float32 `[N]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInput:
    """Target tokens to score after context tokens that are only read.

    Attributes:
        context_ids: At least one token, as it predicts the first target token.
        target_ids: Scored tokens.
        window_tokens: Most target tokens in one pass, at least 1; None reads all at once. Every window begins with the
            whole context.
    """

    context_ids: Sequence[int]
    target_ids: Sequence[int] | NDArray[np.int32]
    window_tokens: int | None = None

    @property
    def num_tokens(self) -> int:
        """Length of the whole sequence."""
        return len(self.context_ids) + len(self.target_ids)


def token_logprobs(
    model: torch.nn.Module, inputs: Iterable[ScoreInput], tokens_per_batch: int
) -> Iterator[NDArray[np.float32]]:
    """Yield log p(target_i | context, target_<i) in nats, float32 `[num_target]`, in the order of the inputs.

    The result does not depend on the other texts in a forward pass. Log-softmax is in float32.

    Args:
        model: A causal language model in eval mode, with or without PEFT.
        inputs: Read lazily, `BATCHES_AHEAD` batches at a time.
        tokens_per_batch: Most tokens per forward pass; a longer sequence has a pass of its own. Affects only speed
            and memory.

    Raises:
        ModelError: The architecture cannot be split into body and head.
        MemoryLimitError: A single text does not fit the memory.
        ValueError: An input has no context token.
    """
    return _measured(model, inputs, tokens_per_batch, target_logprobs)


def token_entropies(
    model: torch.nn.Module, inputs: Iterable[ScoreInput], tokens_per_batch: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the entropy of p(. | context, target_<i) in nats, float32 `[num_target]` in [0, log V].

    The model's uncertainty before it reads target token i, independent of that token. Arguments, order and errors as
    `token_logprobs`.
    """
    return _measured(model, inputs, tokens_per_batch, target_entropies)


def windows(num_targets: int, window_tokens: int | None) -> list[tuple[int, int, int]]:
    """`(start, first, end)` of each window over the targets: `start` to `end` are read, `first` to `end` scored.

    Each target is scored once, by the first window that contains it. Each later window reads
    `WINDOW_OVERLAP * window_tokens` targets before the first that it scores.
    """
    width = num_targets if window_tokens is None else window_tokens
    ranges = [(0, 0, min(width, num_targets))]
    overlap = int(width * WINDOW_OVERLAP)
    while ranges[-1][2] < num_targets:
        first = ranges[-1][2]
        ranges.append((first - overlap, first, min(first - overlap + width, num_targets)))
    return ranges


@dataclass(frozen=True, slots=True)
class _Part:
    """One sequence to read: token ids int64 `[L]`, scored from index `num_unscored` on."""

    ids: NDArray[np.int64]
    num_unscored: int


def _parts(item: ScoreInput) -> list[_Part]:
    """The windows of a text; none if it has no targets."""
    if len(item.target_ids) == 0:
        return []
    context, targets = (np.asarray(ids, dtype=np.int64) for ids in (item.context_ids, item.target_ids))
    return [
        _Part(np.concatenate([context, targets[start:end]]), len(context) + first - start)
        for start, first, end in windows(len(targets), item.window_tokens)
    ]


def _measured(
    model: torch.nn.Module, inputs: Iterable[ScoreInput], tokens_per_batch: int, measure: _Measure
) -> Iterator[NDArray[np.float32]]:
    split = split_head(model)
    pack_tokens = _pack_tokens(split.decoder, tokens_per_batch)
    smaller = smaller_batches(split.decoder, "reading texts")
    for group in _read_ahead(inputs, BATCHES_AHEAD * tokens_per_batch):
        by_item = [_parts(item) for item in group]
        parts = [part for windows_of_item in by_item for part in windows_of_item]
        packs = plan_packs([len(part.ids) for part in parts], pack_tokens)
        # Results stay on the device until all packs are queued, so that a GPU does not wait for Python.
        on_device = [
            smaller.run(
                [parts[i] for i in members], lambda some: _score_pack(split, some, measure), lambda part: len(part.ids)
            )
            for members in packs
        ]
        values: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(parts)
        for members, by_part in zip(packs, on_device, strict=True):
            ends = np.cumsum([len(part_values) for part_values in by_part])
            for i, part_values in zip(members, np.split(torch.cat(by_part).cpu().numpy(), ends[:-1]), strict=True):
                values[i] = part_values
        remaining = iter(values)
        for windows_of_item in by_item:
            yield np.concatenate([np.empty(0, dtype=np.float32), *(next(remaining) for _ in windows_of_item)])


def _pack_tokens(decoder: torch.nn.Module, tokens_per_batch: int) -> int:
    """Size of the fastest pack in tokens; 1 stands for one text at a time."""
    config: Any = decoder.config
    # Eager attention grows with the square of the pack; compiled code would be compiled again for each set of lengths.
    if not can_pack(decoder) or config._attn_implementation == "eager" or is_compiled(decoder):
        return 1
    on_cpu = next(decoder.parameters()).device.type == "cpu"
    return min(tokens_per_batch, _CPU_PACK_TOKENS) if on_cpu else tokens_per_batch


def _read_ahead(inputs: Iterable[ScoreInput], num_tokens: int) -> Iterator[list[ScoreInput]]:
    group: list[ScoreInput] = []
    size = 0
    for item in inputs:
        if len(item.context_ids) == 0:
            raise ValueError("a text can only be scored after at least one context token, such as bos")
        group.append(item)
        size += item.num_tokens
        if size >= num_tokens:
            yield group
            group, size = [], 0
    if group:
        yield group


@torch.inference_mode()
def _score_pack(split: SplitModel, parts: Sequence[_Part], measure: _Measure) -> Sequence[torch.Tensor]:
    """One number per scored token, float32 `[num_scored]` for each part, on the model's device."""
    packed = pack([part.ids for part in parts])
    scored = [
        torch.arange(start + part.num_unscored, start + len(part.ids))
        for start, part in zip(packed.starts, parts, strict=True)
    ]
    packed = packed.to(next(split.decoder.parameters()).device)
    position_N = torch.cat(scored).to(packed.ids.device)
    states_TD = packed_states(split.decoder, packed)
    # Position t predicts token t + 1.
    values_N = measure(split.head, states_TD[position_N - 1], packed.ids[0, position_N])
    return torch.split(values_N, [len(part.ids) - part.num_unscored for part in parts])
