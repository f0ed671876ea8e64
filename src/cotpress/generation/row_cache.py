"""Keys and values of a batch whose rows join and leave at any step.

The cache of transformers grows by concatenation, which copies all of it at every step, and its rows start and end
together. Here every row has a slot in buffers that grow in blocks:

    column      0 ......... start ................ end ........ capacity
    slot 0      .           |prompt of 5  written|             all rows end at the same column, so that one step
    slot 1      .                 |prompt|written|             writes one column for all of them;
    slot 2      .    free                                      attention reads [start, end) only

A row that joins is placed so that it ends at `end`. When a row leaves, the last row moves to its slot.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of some tokens of one row in one layer, each `[heads, tokens, dim]`."""
BLOCK = 128
"""Fewest columns by which the buffers grow; moving all rows costs about one step."""


class RowCache:
    """The cache of one batch.

    Attributes:
        lengths: Tokens in the cache, by slot; rows fill the slots from 0 on.
        past: Value of `past_key_values` for a forward pass with one token per row.
    """

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.lengths: list[int] = []
        self.end = 0
        self._num_slots, self._device = num_slots, device
        self._mask = torch.zeros(num_slots, 0, dtype=torch.bool, device=device)
        self._layers: list[_Layer] = []
        self.past: Any = None

    @property
    def start(self) -> int:
        """First column in use."""
        return self.end - max(self.lengths, default=0)

    def add(self, layers: Sequence[KeysValues]) -> None:
        """Give the next slot to a row with these keys and values."""
        if not self._layers:
            self._layers = [_Layer(self, keys, values, self._num_slots) for keys, values in layers]
            self.past = Cache(layers=self._layers)
        slot, length = len(self.lengths), layers[0][0].shape[1]
        if length > self.end or not self.lengths:
            self._move(max(length, max(self.lengths, default=0)))
        columns = slice(self.end - length, self.end)
        self._mask[slot] = False
        self._mask[slot, columns] = True
        for layer, (keys, values) in zip(self._layers, layers, strict=True):
            layer.keys[slot, :, columns] = keys
            layer.values[slot, :, columns] = values
        self.lengths.append(length)

    def drop(self, slot: int) -> None:
        """Free a slot; the row in the last one moves there."""
        last = len(self.lengths) - 1
        if slot != last:
            columns = slice(self.end - self.lengths[last], self.end)
            for layer in self._layers:
                layer.keys[slot, :, columns] = layer.keys[last, :, columns]
                layer.values[slot, :, columns] = layer.values[last, :, columns]
            self._mask[slot] = self._mask[last]
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make room for one more token per row; call `advance` after the forward pass.

        Returns the mask, bool `[rows, columns]`, the new token included, and the positions, int64 `[rows, 1]`.
        """
        if self.end == self._mask.shape[1]:
            self._move(max(self.lengths))
        rows = len(self.lengths)
        self._mask[:rows, self.end] = True
        position = torch.tensor(self.lengths, device=self._device)[:, None]
        return self._mask[:rows, self.start : self.end + 1], position

    def advance(self, tokens: int = 1) -> None:
        """Count the tokens that forward passes added to every row."""
        self.end += tokens
        self.lengths = [length + tokens for length in self.lengths]

    @property
    def room(self) -> int:
        """Columns left before the buffers grow."""
        return self._mask.shape[1] - self.end

    def _move(self, end: int) -> None:
        """Move all rows so that they end at column `end`, with room after it; no row is longer than `end`."""
        used = slice(self.start, self.end)
        target = slice(end - (used.stop - used.start), end)
        capacity = self._mask.shape[1]
        if capacity - end < BLOCK:
            capacity = end + max(BLOCK, end // 2)
        mask = self._mask.new_zeros(self._num_slots, capacity)
        mask[:, target] = self._mask[:, used]
        for layer in self._layers:
            layer.keys = _moved(layer.keys, len(self.lengths), used, target, capacity)
            layer.values = _moved(layer.values, len(self.lengths), used, target, capacity)
        self._mask, self.end = mask, end


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """Buffers `[slots, heads, capacity, dim]` of one layer, with the interface of transformers."""

    is_sliding = False

    def __init__(self, cache: RowCache, keys: torch.Tensor, values: torch.Tensor, num_slots: int) -> None:
        super().__init__()
        self._cache = cache
        self.keys, self.values = (x.new_zeros(num_slots, x.shape[0], 0, x.shape[2]) for x in (keys, values))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, start, end = len(self._cache.lengths), self._cache.start, self._cache.end
        self.keys[:rows, :, end] = key_states[:, :, 0]
        self.values[:rows, :, end] = value_states[:, :, 0]
        return self.keys[:rows, :, start : end + 1], self.values[:rows, :, start : end + 1]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing; the buffers are created with the first row."""

    def get_seq_length(self) -> int:
        return self._cache.end - self._cache.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


def _moved(buffer: torch.Tensor, rows: int, used: slice, target: slice, capacity: int) -> torch.Tensor:
    """The buffer with its used columns at `target`; a larger one if the capacity differs."""
    if capacity == buffer.shape[2]:
        buffer[:rows, :, target] = buffer[:rows, :, used].clone()  # source and target may overlap
        return buffer
    # Zeros, because masked values must be finite.
    larger = buffer.new_zeros(buffer.shape[0], buffer.shape[1], capacity, buffer.shape[3])
    larger[:rows, :, target] = buffer[:rows, :, used]
    return larger
