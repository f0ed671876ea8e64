"""Backend that runs a transformers model in this process, with continuous batching.

`generate` of transformers computes every row of a batch until the longest one ends. Here rows leave the batch when they
end, and as soon as some slots are free the next prompts join. Prompts are sorted by length, longest first: the others
then fit the room that the first ones needed, and the batch does not end on a few long rows. On a CPU a step of a few
rows costs nearly as much as one of many, so keeping the batch full is most of the gain.

A text does not depend on its batch. Greedy texts equal those of transformers' `generate` row by row, up to the rounding
of matrix products of another size. A sampled row draws from its own counter-based generator (Philox), keyed by the seed
and the name of its stream, so a resumed run continues with the same draws.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cotpress.devices.memory import is_out_of_memory, release, smaller_batches
from cotpress.generation.backends import (
    GREEDY,
    LENGTH,
    REFUSED,
    STOP,
    Generation,
    OnDone,
    Prompt,
    Sampling,
    budgets,
)
from cotpress.modeling.loading import cache_argument
from cotpress.prompts import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotpress.generation.row_cache import KeysValues

log = logging.getLogger(__name__)


class TransformersBackend:
    """Backend with a model in this process; see `cotpress.generation.backends.Backend`.

    Args:
        model: Causal language model in eval mode.
        tokenizer: Its tokenizer.
        context_tokens: Longest prompt plus budget; a longer one is refused.
        generation_tokens: Prompt plus budget of all rows of a batch together.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        context_tokens: int,
        generation_tokens: int,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._context_tokens, self._generation_tokens = context_tokens, generation_tokens

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int | Sequence[int],
        sampling: Sampling = GREEDY,
        streams: Sequence[str] | None = None,
        on_done: OnDone | None = None,
    ) -> list[Generation]:
        """See `Backend`."""
        done: dict[int, Generation] = {}

        def note(index: int, generation: Generation) -> None:
            done[index] = generation
            if on_done is not None:
                on_done(index, generation)

        texts, limits = [self._token_ids(prompt) for prompt in prompts], budgets(max_new_tokens, len(prompts))
        needs = [len(text) + limit for text, limit in zip(texts, limits, strict=True)]
        fitting = [i for i, need in enumerate(needs) if need <= self._context_tokens]
        for index in sorted(set(range(len(prompts))) - set(fitting)):
            note(index, Generation(token_ids=(), text="", finish_reason=REFUSED, latency_s=0.0))
        generate(
            self._model,
            self._tokenizer,
            [texts[i] for i in fitting],
            max_new_tokens=[limits[i] for i in fitting],
            batch_size=max(self._generation_tokens // max((needs[i] for i in fitting), default=1), 1),
            sampling=sampling,
            streams=[str(i) if streams is None else streams[i] for i in fitting],
            on_done=lambda place, generation: note(fitting[place], generation),
        )
        return [done[i] for i in range(len(prompts))]

    def _token_ids(self, prompt: Any) -> Sequence[int]:
        if not isinstance(prompt[0], dict):
            return list(prompt)
        text = render_chat(self._tokenizer, prompt, add_generation_prompt=True)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


class RowStreams:
    """Uniform random numbers, one independent stream per row.

    Args:
        seed: Seed of all streams.
        names: One name per row, e.g. `problem id/sample`; equal names give equal numbers.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=_key(seed, name))) for name in names]

    def draw(self, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """Next number in [0, 1) of each given row: float64 `[rows]`."""
        return torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64).to(device)


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")


def sampled_tokens(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Next token per row by inverting the cumulative distribution at the row's number.

    The sum runs in the order of the vocabulary, not from the likeliest token down: with another batch size rounding
    could swap two tokens of nearly equal probability, and the text would change.

    Args:
        logits: `[rows, V]`.
        uniforms: float64 `[rows]` in [0, 1).
        temperature: Above 0.
        top_p: Smallest set of likeliest tokens with this much probability, in (0, 1]; tokens as likely as the last of
            them are in it as well, because their order is arbitrary.

    Returns:
        int64 `[rows]`.
    """
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        # All tokens below this probability together hold less than 1 - top_p, so none of them is in the set.
        candidates = int((probabilities >= (1 - top_p) / logits.shape[-1]).sum(-1).max())
        ordered = probabilities.topk(candidates, dim=-1).values
        least = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 1.0).amin(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    below = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))  # stay below total
    return torch.searchsorted(cumulative, below[:, None], right=True)[:, 0]  # right: no token of probability 0


_Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""Maps logits `[rows, V]` and the indices of the rows' prompts to the next tokens."""
JOIN_SHARE = 1 / 8
"""Prompts join when this share of the batch is free: reading a few at once costs less than one by one."""


@dataclass(slots=True)
class _Row:
    """A prompt that is being completed."""

    index: int
    limit: int
    written: list[int] = field(default_factory=list)
    seconds: float = 0.0


def generate(
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    batch_size: int,
    sampling: Sampling | None = None,
    streams: Sequence[str] | None = None,
    on_done: OnDone | None = None,
) -> list[Generation]:
    """Completions in the order of the prompts.

    Arguments as `Backend.complete`, with token ids only and at most `batch_size` prompts at once.

    Raises:
        MemoryLimitError: A single row does not fit the memory.
    """
    names = [str(i) for i in range(len(prompts))] if streams is None else streams
    ends, limits = _end_ids(model, tokenizer), budgets(max_new_tokens, len(prompts))
    done: dict[int, Generation] = {}

    def finish(indices: Sequence[int], row: _Row) -> None:
        index = indices[row.index]
        stopped = row.written[-1] in ends
        kept = row.written[:-1] if stopped else row.written
        text, reason = str(tokenizer.decode(kept, skip_special_tokens=False)), STOP if stopped else LENGTH
        done[index] = Generation(token_ids=tuple(kept), text=text, finish_reason=reason, latency_s=row.seconds)
        if on_done is not None:
            on_done(index, done[index])

    smaller = smaller_batches(model, "generation", "trainer.generation_tokens")
    while left := [i for i in range(len(prompts)) if i not in done]:
        choose = _chooser(sampling, [names[i] for i in left])  # every attempt begins the streams anew
        texts, room = [prompts[i] for i in left], [limits[i] for i in left]
        row_tokens = max(len(text) + limit for text, limit in zip(texts, room, strict=True))
        size = batch_size if smaller.most is None else min(batch_size, max(smaller.most // row_tokens, 1))
        try:
            _Writer(model, texts, room, ends, choose, size).run(partial(finish, left))
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            smaller.lower(min(size, len(left)) * row_tokens, error, indivisible=min(size, len(left)) == 1)
        release()  # unfinished rows are computed again in a smaller batch, with the same result
    return [done[i] for i in range(len(prompts))]


class _Writer:
    """State of one call: waiting prompts, and active rows in the order of the cache's slots."""

    def __init__(
        self,
        model: torch.nn.Module,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        ends: frozenset[int],
        choose: _Choose,
        batch_size: int,
    ) -> None:
        from cotpress.generation.row_cache import RowCache

        self._model, self._device = model, next(model.parameters()).device
        self._prompts, self._limits, self._ends, self._choose = [tuple(p) for p in prompts], limits, ends, choose
        self._batch_size, self._rows = min(batch_size, len(prompts)), list[_Row]()
        order = sorted(range(len(prompts)), key=lambda i: (len(self._prompts[i]), self._prompts[i]), reverse=True)
        self._waiting = deque(order)  # equal prompts one after the other
        self._held: dict[tuple[int, ...], _ReadPrompt] = {}
        self._cache = RowCache(self._batch_size, self._device)

    @torch.inference_mode()
    def run(self, finish: Callable[[_Row], None]) -> None:
        """Complete all prompts; `finish` is called with each row when it has ended."""
        reader = PromptReader(self._model, self._prompts)
        while self._waiting or self._rows:
            began = time.monotonic()
            joins = self._waiting and self._batch_size - len(self._rows) >= JOIN_SHARE * self._batch_size
            rows, logits = self._join(reader) if joins else self._step()
            tokens = self._choose(logits, [row.index for row in rows]).tolist()
            share = (time.monotonic() - began) / len(rows)
            for row, token in zip(rows, tokens, strict=True):
                row.written.append(token)
                row.seconds += share
            self._leave(finish)

    def _join(self, reader: "PromptReader") -> tuple[list[_Row], torch.Tensor]:
        """Read as many prompts as fit; returns their rows and the logits `[rows, V]` of the next token."""
        free = min(self._batch_size - len(self._rows), len(self._waiting))
        entering = [self._waiting.popleft() for _ in range(free)]
        prompts = [self._prompts[i] for i in entering]
        unread = [p for p in prompts if p not in self._held]
        read = {**self._held, **(reader.read(unread) if unread else {})}
        for prompt in prompts:
            self._cache.add(read[prompt].parts)
        following = self._prompts[self._waiting[0]] if self._waiting else None
        self._held = {p: read[p] for p in prompts[-1:] if p == following}
        rows = [_Row(i, self._limits[i]) for i in entering]
        self._rows += rows
        return rows, torch.stack([read[p].logits for p in prompts])

    def _step(self) -> tuple[list[_Row], torch.Tensor]:
        """Feed the last token of every row; returns the rows and the logits `[rows, V]` of the next token."""
        mask, position = self._cache.step()
        output = self._model(
            input_ids=torch.tensor([[row.written[-1]] for row in self._rows], device=self._device),
            attention_mask=mask,
            position_ids=position,
            **cache_argument(self._cache.past),
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache.advance()
        return list(self._rows), output.logits[:, -1]

    def _leave(self, finish: Callable[[_Row], None]) -> None:
        """Remove the rows that have ended; the last row moves into each free slot."""
        for slot in reversed(range(len(self._rows))):
            row = self._rows[slot]
            if row.written[-1] in self._ends or len(row.written) >= row.limit:
                self._cache.drop(slot)
                self._rows[slot] = self._rows[-1]
                self._rows.pop()
                finish(row)


MIN_PREFIX_TOKENS = 8
"""Shortest common prefix that is read once; the gain of a shorter one is lost in the overhead of a forward pass."""


@dataclass(frozen=True, slots=True)
class _ReadPrompt:
    """A prompt that was read: keys and values of its consecutive parts by layer, logits `[V]` of the next token."""

    parts: tuple[Sequence["KeysValues"], ...]
    logits: torch.Tensor


class PromptReader:
    """Reads the prompts of one call; a prefix that all of them share, and equal prompts, are read once."""

    def __init__(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> None:
        self._model, self._device = model, next(model.parameters()).device
        from transformers import DynamicCache  # here, so that importing this module does not import transformers

        self._new_cache: Callable[[], Any] = DynamicCache
        self._prefix = _common_prefix(prompts)
        if len(self._prefix) < MIN_PREFIX_TOKENS or len({tuple(p) for p in prompts}) == 1:
            self._prefix = ()
        self._prefix_layers: list[KeysValues] = []
        if self._prefix:
            cache, _ = self._forward([self._prefix], self._new_cache())
            self._prefix_layers = [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def read(self, prompts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], _ReadPrompt]:
        """Read the distinct prompts in one forward pass, padded on the left after the common prefix."""
        distinct = list(dict.fromkeys(prompts))
        shared = len(self._prefix)
        cache = self._new_cache()
        for index, states in enumerate(self._prefix_layers):
            keys, values = (x.expand(len(distinct), *x.shape) for x in states)
            cache.update(keys, values, index)
        cache, logits = self._forward([p[shared:] for p in distinct], cache)
        read = {}
        for row, prompt in enumerate(distinct):
            own = len(prompt) - shared
            rest = [(layer.keys[row, :, -own:], layer.values[row, :, -own:]) for layer in cache.layers]
            parts = (self._prefix_layers, rest) if shared else (rest,)
            read[prompt] = _ReadPrompt(parts, logits[row])
        return read

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


def _common_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens with which all prompts begin, without the last token of any prompt."""
    if not prompts:
        return ()
    low, high = min(map(tuple, prompts)), max(map(tuple, prompts))  # all prompts between them share what they share
    limit = min(len(p) for p in prompts) - 1
    same = 0
    while same < limit and low[same] == high[same]:
        same += 1
    return tuple(low[:same])


def _end_ids(model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None)


def _chooser(sampling: Sampling | None, names: Sequence[str]) -> _Choose:
    """Function that chooses the next tokens; `names` are the prompts' random streams."""
    if sampling is None or sampling.temperature == 0:
        return lambda logits, rows: logits.argmax(-1)
    temperature, top_p, streams = sampling.temperature, sampling.top_p, RowStreams(sampling.seed, names)
    return lambda logits, rows: sampled_tokens(logits, streams.draw(rows, logits.device), temperature, top_p)
