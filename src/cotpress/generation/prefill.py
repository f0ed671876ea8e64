"""Reads prompts: a prefix that all of them share is computed once, and so is a prompt that is asked several times."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from cotpress.generation.row_cache import KeysValues
from cotpress.modeling.loading import cache_argument

MIN_PREFIX_TOKENS = 8
"""A shorter common prefix is read again with every prompt: its gain is lost in the rounding of a forward."""


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt and what the model made of it.

    Attributes:
        parts: Its stretches, each with keys and values of all layers.
        logits: `[V]` of the token that follows.
    """

    parts: tuple[Sequence[KeysValues], ...]
    logits: torch.Tensor


class PromptReader:
    """Reads the prompts of one call."""

    def __init__(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        """Reads the common prefix, if there is one that pays.

        Args:
            model: Causal language model in eval mode.
            prompts: All prompts that will be read.
        """
        self._model, self._device = model, next(model.parameters()).device
        self._prefix = common_prefix(prompts)
        if len(self._prefix) < MIN_PREFIX_TOKENS or len({tuple(p) for p in prompts}) == 1:
            self._prefix = ()
        self._prefix_layers: list[KeysValues] = []
        if self._prefix:
            cache, _ = self._forward([self._prefix], DynamicCache())
            self._prefix_layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def read(self, prompts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], ReadPrompt]:
        """Each distinct prompt of a batch, read in one forward, padded on the left after the common prefix."""
        distinct = list(dict.fromkeys(prompts))
        shared = len(self._prefix)
        cache = DynamicCache()
        for index, states in enumerate(self._prefix_layers):
            keys, values = (x.expand(len(distinct), *x.shape) for x in states)
            cache.update(keys, values, index)
        cache, logits = self._forward([p[shared:] for p in distinct], cache)
        found = {}
        for row, prompt in enumerate(distinct):
            own = len(prompt) - shared
            rest = [(layer.keys[row, :, -own:], layer.values[row, :, -own:]) for layer in cache.layers]
            parts = (self._prefix_layers, rest) if shared else (rest,)
            found[prompt] = ReadPrompt(parts, logits[row])
        return found

    def _forward(self, texts: Sequence[Sequence[int]], cache: Any) -> tuple[Any, torch.Tensor]:
        past, width = cache.get_seq_length(), max(len(t) for t in texts)
        ids = torch.zeros(len(texts), width, dtype=torch.long)
        mask = torch.ones(len(texts), past + width, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, width - len(text) :] = torch.tensor(text)
            mask[row, past : past + width - len(text)] = 0
        output = self._model(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, past:].to(self._device),
            **cache_argument(cache),
            use_cache=True,
            logits_to_keep=1,
        )
        return cache, output.logits[:, -1]


def common_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all prompts begin with, at least the last token of each left out."""
    if not prompts:
        return ()
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))  # whatever these two share, all between them share
    limit = min(len(p) for p in prompts) - 1
    same = 0
    while same < limit and low[same] == high[same]:
        same += 1
    return tuple(low[:same])
