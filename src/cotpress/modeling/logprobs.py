"""Readings of given texts by a causal language model: three numbers per target token.

The body of the model runs over texts packed without padding, its head only on the scored positions. A text over the
model's context is read in windows that overlap.

Shape suffixes: T positions of a pack, D hidden size, N scored positions, 3 numbers of a reading.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.devices.memory import smaller_batches
from cotpress.modeling.head import target_readings
from cotpress.modeling.loading import SplitModel, check_ids, split_head
from cotpress.modeling.packing import pack, packed_inputs, packing_obstacle, plan_packs

BATCHES_AHEAD = 8
"""Input that is read ahead to be sorted by length, in batches."""

WINDOW_OVERLAP = 0.5
"""Fraction of a window that the previous window has scored and that is read again as context."""

_CPU_PACK_TOKENS = 1024
"""Longest pack on a CPU, in tokens: packing speeds up short texts only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInput:
    """Target tokens to score after context tokens that are only read.

    Attributes:
        context_ids: Tokens before the text; at least one, since the first target token is predicted from it.
        target_ids: Tokens to score.
        window_tokens: Most target tokens that are read at once, at least 1; None reads all of them in one go. Every
            window begins with the whole context.
    """

    context_ids: Sequence[int] | NDArray[np.integer[Any]]
    target_ids: Sequence[int] | NDArray[np.integer[Any]]
    window_tokens: int | None = None

    @property
    def num_tokens(self) -> int:
        """Length of the whole sequence."""
        return len(self.context_ids) + len(self.target_ids)


def token_readings(
    model: torch.nn.Module, inputs: Iterable[ScoreInput], tokens_per_batch: int
) -> Iterator[NDArray[np.float32]]:
    """Yield log-probability, entropy and rank of every target token, float32 `[num_target, 3]`, in the inputs' order.

    The columns are log p(target_i | context, target_<i) in nats, the entropy of p(. | context, target_<i) in nats, in
    [0, log V], and the number of words that the model finds likelier than target_i. The result is that of a pass over
    the text alone, whatever shares the forward pass with it. Softmax is in float32.

    Args:
        model: A causal language model in eval mode, with or without PEFT.
        inputs: Read lazily, `BATCHES_AHEAD` batches at a time.
        tokens_per_batch: Most tokens per forward pass, except for a longer sequence; affects only speed and memory.

    Raises:
        ModelError: The architecture cannot be split into body and head, or does not know a token.
        MemoryLimitError: A single text does not fit the memory.
        ValueError: An input has no context token.
    """
    split = split_head(model)
    pack_tokens = _pack_tokens(split.decoder, tokens_per_batch)
    smaller = smaller_batches(split.decoder, "reading texts")
    for group in _read_ahead(inputs, BATCHES_AHEAD * tokens_per_batch):
        for item in group:
            check_ids(model, (np.max(item.context_ids), np.max(item.target_ids, initial=0)), "reading texts")
        parts = [part for item in group for part in _parts(item)]
        packs = plan_packs([part.num_tokens for part in parts], pack_tokens)
        # Results stay on the device until all packs are under way: a GPU need not wait for Python.
        on_device: list[list[torch.Tensor]] = []
        for members in packs:
            on_device.append([])
            for attempt in smaller.attempts([parts[i] for i in members], lambda part: part.num_tokens):
                with attempt:
                    on_device[-1] += _read_pack(split, attempt.items)
        values: dict[int, NDArray[np.float32]] = {}
        for members, by_part in zip(packs, on_device, strict=True):
            ends = np.cumsum([len(part_values) for part_values in by_part])
            values.update(zip(members, np.split(torch.cat(by_part).cpu().numpy(), ends[:-1]), strict=True))
        nothing = np.empty((0, 3), dtype=np.float32)
        in_order = np.concatenate([nothing, *(values[i] for i in range(len(parts)))])
        yield from np.split(in_order, np.cumsum([len(item.target_ids) for item in group])[:-1])


def windows(num_targets: int, window_tokens: int | None) -> list[tuple[int, int, int]]:
    """`(start, first, end)` of each window over the targets: `start` to `end` are read, `first` to `end` scored."""
    width = num_targets if window_tokens is None else window_tokens
    ranges = [(0, 0, min(width, num_targets))]
    overlap = int(width * WINDOW_OVERLAP)
    while ranges[-1][2] < num_targets:
        first = ranges[-1][2]
        ranges.append((first - overlap, first, min(first - overlap + width, num_targets)))
    return ranges


def _parts(item: ScoreInput) -> list[ScoreInput]:
    """The windows of a text, each with all that is read before its targets as context; none if it has no targets."""
    if len(item.target_ids) == 0:
        return []
    context, targets = (np.asarray(ids, dtype=np.int64) for ids in (item.context_ids, item.target_ids))
    return [
        ScoreInput(context_ids=np.concatenate([context, targets[start:first]]), target_ids=targets[first:end])
        for start, first, end in windows(len(targets), item.window_tokens)
    ]


def _pack_tokens(decoder: torch.nn.Module, tokens_per_batch: int) -> int:
    """Size of the fastest pack in tokens; 1 stands for one text at a time."""
    config: Any = decoder.config
    # Eager attention grows with the square of the pack; compiled code would be compiled again for each set of lengths.
    is_compiled = decoder._compiled_call_impl is not None
    if packing_obstacle(decoder) or config._attn_implementation == "eager" or is_compiled:
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
def _read_pack(split: SplitModel, parts: Sequence[ScoreInput]) -> Sequence[torch.Tensor]:
    """Readings of the targets, float32 `[num_target, 3]` for each part, on the model's device."""
    packed = pack([np.concatenate([part.context_ids, part.target_ids]) for part in parts])
    scored = [
        torch.arange(start + len(part.context_ids), start + part.num_tokens)
        for start, part in zip(packed.starts, parts, strict=True)
    ]
    packed = packed.to(next(split.decoder.parameters()).device)
    position_N = torch.cat(scored).to(packed.ids.device)
    states_TD = split.decoder(**packed_inputs(split.decoder, packed)).last_hidden_state[0]
    # Position t predicts token t + 1.
    values_N3 = target_readings(split.head, states_TD[position_N - 1], packed.ids[0, position_N])
    return torch.split(values_N3, [len(part.target_ids) for part in parts])
