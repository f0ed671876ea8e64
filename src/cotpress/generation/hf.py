"""Backend that runs a transformers model in this process, with continuous batching.

`generate` of transformers computes every row of a batch until the longest one ends. Here rows leave the batch when they
end, and the next prompts join as soon as some slots are free, longest first: the others then fit the room that the
first ones needed, and the batch does not end on a few long rows. On a CPU a step of a few rows costs nearly as much as
one of many.

A text does not depend on its batch. Greedy texts equal those of transformers' `generate` row by row, up to the rounding
of matrix products of another size. A sampled row draws from its own counter-based generator (Philox), keyed by the seed
and the name of its stream, so a resumed run continues with the same draws.

Models whose layers keep a state, or use an attention of their own, write one text at a time with `generate`.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cotpress.devices.memory import is_out_of_memory, release, smaller_batches
from cotpress.errors import ModelError
from cotpress.generation.backends import GREEDY, LENGTH, REFUSED, STOP, Generation, OnDone, Request, Sampling
from cotpress.modeling.architecture import keeps_state
from cotpress.modeling.loading import cache_argument, check_ids, unwrapped
from cotpress.prompts import conversation_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotpress.generation.row_cache import KeysValues

log = logging.getLogger(__name__)

JOIN_SHARE = 1 / 8
"""Prompts join when this share of the batch is free: reading a few at once costs less than one by one."""


@dataclass(slots=True)
class _Row:
    """A prompt that is being completed."""

    index: int
    prompt: tuple[int, ...]
    limit: int
    draws: np.random.Generator
    written: list[int] = field(default_factory=list)
    seconds: float = 0.0


class TransformersBackend:
    """Backend with a model in this process; see `cotpress.generation.backends.Backend`.

    Args:
        model: Causal language model in eval mode.
        tokenizer: Its tokenizer.
        context_tokens: Longest prompt plus budget; a longer one is refused.
        generation_tokens: Prompt plus budget of all rows of a batch together.

    Raises:
        ModelError: No token ends an answer, or, in `complete`, a prompt holds a token that the model does not know.
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
        if not self._end_ids():
            raise ModelError(
                f"{type(unwrapped(model)).__name__} has no token that ends an answer: neither generation_config.json "
                "nor the tokenizer names one, so every answer would be as long as its budget. Fix: name it as "
                "eos_token_id in generation_config.json"
            )
        self._alone = writes_alone(model)
        if self._alone:
            log.warning(
                "%s has layers that keep a state or an attention of their own: answers are written one after the "
                "other, which is slow. generation=server writes them in batches", type(unwrapped(model)).__name__,
            )  # fmt: skip

    def complete(
        self, requests: Sequence[Request], *, sampling: Sampling = GREEDY, on_done: OnDone | None = None
    ) -> list[Generation]:
        """See `Backend`."""
        ends = self._end_ids()
        prompts = [self._token_ids(request.prompt) for request in requests]
        for prompt in prompts:
            check_ids(self._model, prompt, "generation: a prompt")
        needs = [len(prompt) + request.max_new_tokens for prompt, request in zip(prompts, requests, strict=True)]
        fitting = [need for need in needs if need <= self._context_tokens]
        batch_size = 1 if self._alone else max(self._generation_tokens // max(fitting, default=1), 1)
        done: dict[int, Generation] = {}

        def note(index: int, generation: Generation) -> None:
            done[index] = generation
            if on_done is not None:
                on_done(index, generation)

        def finish(row: _Row) -> None:
            stopped = row.written[-1] in ends
            kept = row.written[:-1] if stopped else row.written
            text, reason = str(self._tokenizer.decode(kept, skip_special_tokens=False)), STOP if stopped else LENGTH
            note(row.index, Generation(token_ids=tuple(kept), text=text, finish_reason=reason, latency_s=row.seconds))

        for index, need in enumerate(needs):
            if need > self._context_tokens:
                note(index, Generation(token_ids=(), text="", finish_reason=REFUSED, latency_s=0.0))
        smaller = smaller_batches(self._model, "generation", "trainer.generation_tokens")
        while left := [i for i in range(len(requests)) if i not in done]:
            rows = [  # every attempt begins the streams anew
                _Row(i, prompts[i], requests[i].max_new_tokens, random_stream(sampling.seed, requests[i].stream))
                for i in left
            ]
            row_tokens = max(needs[i] for i in left)
            size = batch_size if smaller.most is None else min(batch_size, max(smaller.most // row_tokens, 1))
            size = min(size, len(rows))
            try:
                if self._alone:
                    _write_alone(self._model, rows, ends, sampling, finish)
                else:
                    _Writer(self._model, rows, ends, sampling, size).run(finish)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                smaller.lower(size * row_tokens, error, indivisible=size == 1)
            release()  # unfinished rows are computed again in a smaller batch, with the same result
        return [done[i] for i in range(len(requests))]

    def _end_ids(self) -> frozenset[int]:
        configured = getattr(getattr(self._model, "generation_config", None), "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in (*listed, self._tokenizer.eos_token_id) if i is not None)

    def _token_ids(self, prompt: Any) -> tuple[int, ...]:
        if not isinstance(prompt[0], dict):
            return tuple(prompt)
        return tuple(conversation_ids(self._tokenizer, prompt))


def random_stream(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the name only."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def sampled_tokens(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Next token per row, int64 `[rows]`: the inverse of its cumulative distribution at the row's number.

    The sum runs in the order of the vocabulary, not from the likeliest token down: with another batch size rounding
    could swap two tokens of nearly equal probability, and the text would change.

    Args:
        logits: `[rows, V]`.
        uniforms: float64 `[rows]` in [0, 1).
        temperature: Above 0.
        top_p: Smallest set of likeliest tokens with this much probability, in (0, 1]; tokens as likely as the last of
            them are in it as well, because their order is arbitrary.
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


def writes_alone(model: torch.nn.Module) -> bool:
    """True if the texts of a model cannot share a cache whose rows join and leave at any step."""
    base: Any = unwrapped(model)
    return not getattr(base, "_supports_attention_backend", False) or keeps_state(base, base.config)


def _write_alone(
    model: torch.nn.Module,
    rows: Sequence[_Row],
    ends: frozenset[int],
    sampling: Sampling,
    finish: Callable[[_Row], None],
) -> None:
    """Complete one prompt after the other with transformers' `generate`, which makes the cache that the model needs."""
    from transformers import GenerationConfig, LogitsProcessorList

    base, device = unwrapped(model), next(model.parameters()).device
    for row in rows:
        began = time.monotonic()
        ids = torch.tensor([row.prompt], device=device)
        with torch.inference_mode(), _own_generation_config(base):
            written = base.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(
                    do_sample=False, max_new_tokens=row.limit, eos_token_id=sorted(ends) or None, pad_token_id=0
                ),
                logits_processor=LogitsProcessorList([_Draw(row.draws, sampling)] if sampling.temperature else []),
            )
        row.written = written[0, len(row.prompt) :].tolist()
        row.seconds = time.monotonic() - began
        finish(row)


class _Draw:
    """Processor of logits `[1, V]` for `generate` that leaves one token to choose, drawn from a row's own stream."""

    def __init__(self, draws: np.random.Generator, sampling: Sampling) -> None:
        self._draws, self._sampling = draws, sampling

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        uniforms = torch.tensor([self._draws.random()], dtype=torch.float64).to(logits.device)
        token = sampled_tokens(logits, uniforms, self._sampling.temperature, self._sampling.top_p)
        return torch.full_like(logits, float("-inf")).scatter(1, token[:, None], 0.0)


@contextmanager
def _own_generation_config(model: Any) -> Iterator[None]:
    """Leave out the generation settings that came with the model, with which `generate` fills those not given."""
    from transformers import GenerationConfig

    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept


class _Writer:
    """State of one call: waiting rows, and active rows in the order of the cache's slots."""

    def __init__(
        self, model: torch.nn.Module, rows: Sequence[_Row], ends: frozenset[int], sampling: Sampling, batch_size: int
    ) -> None:
        from cotpress.generation.row_cache import RowCache

        self._model, self._device = model, next(model.parameters()).device
        self._ends, self._sampling, self._batch_size = ends, sampling, batch_size
        # Longest first, equal prompts one after the other.
        self._waiting = deque(sorted(rows, key=lambda row: (len(row.prompt), row.prompt), reverse=True))
        self._rows: list[_Row] = []
        self._held: dict[tuple[int, ...], ReadPrompt] = {}
        self._cache = RowCache(batch_size, self._device)

    @torch.inference_mode()
    def run(self, finish: Callable[[_Row], None]) -> None:
        """Complete all prompts; `finish` is called with each row when it has ended."""
        while self._waiting or self._rows:
            began = time.monotonic()
            joins = self._waiting and self._batch_size - len(self._rows) >= JOIN_SHARE * self._batch_size
            rows, logits = self._join() if joins else self._step()
            tokens = self._choose(logits, rows).tolist()
            share = (time.monotonic() - began) / len(rows)
            for row, token in zip(rows, tokens, strict=True):
                row.written.append(token)
                row.seconds += share
            self._leave(finish)

    def _join(self) -> tuple[list[_Row], torch.Tensor]:
        """Read as many prompts as fit; returns their rows and the logits `[rows, V]` of the next token."""
        free = min(self._batch_size - len(self._rows), len(self._waiting))
        rows = [self._waiting.popleft() for _ in range(free)]
        unread = [row.prompt for row in rows if row.prompt not in self._held]
        read = {**self._held, **(read_prompts(self._model, unread) if unread else {})}
        for row in rows:
            self._cache.add(read[row.prompt].layers)
        last = rows[-1].prompt
        self._held = {last: read[last]} if self._waiting and self._waiting[0].prompt == last else {}
        self._rows += rows
        return rows, torch.stack([read[row.prompt].logits for row in rows])

    def _step(self) -> tuple[list[_Row], torch.Tensor]:
        """Feed the last token of every row; returns the rows and the logits `[rows, V]` of the next token."""
        mask, positions = self._cache.step()
        ids = torch.tensor([[row.written[-1]] for row in self._rows], device=self._device)
        logits = next_logits(self._model, ids, mask, positions, self._cache.past)
        self._cache.advance()
        return list(self._rows), logits

    def _choose(self, logits: torch.Tensor, rows: Sequence[_Row]) -> torch.Tensor:
        if self._sampling.temperature == 0:
            return logits.argmax(-1)
        uniforms = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64).to(logits.device)
        return sampled_tokens(logits, uniforms, self._sampling.temperature, self._sampling.top_p)

    def _leave(self, finish: Callable[[_Row], None]) -> None:
        """Remove the rows that have ended; the last row moves into each free slot."""
        for slot in reversed(range(len(self._rows))):
            row = self._rows[slot]
            if row.written[-1] in self._ends or len(row.written) >= row.limit:
                self._cache.drop(slot)
                self._rows[slot] = self._rows[-1]
                self._rows.pop()
                finish(row)


class ReadPrompt(NamedTuple):
    """A prompt that was read: keys and values by layer, logits `[V]` of the next token."""

    layers: Sequence["KeysValues"]
    logits: torch.Tensor


def read_prompts(model: torch.nn.Module, prompts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], ReadPrompt]:
    """Read the distinct prompts in one forward pass, padded on the left."""
    from transformers import DynamicCache  # here, so that importing this module does not import transformers

    distinct = list(dict.fromkeys(prompts))
    width, device, cache = max(map(len, distinct)), next(model.parameters()).device, DynamicCache()
    ids, mask = torch.zeros(len(distinct), width, dtype=torch.long), torch.ones(len(distinct), width, dtype=torch.long)
    for row, prompt in enumerate(distinct):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, : width - len(prompt)] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = next_logits(model, ids.to(device), mask.to(device), positions.to(device), cache)
    read = {}
    for row, prompt in enumerate(distinct):
        own = slice(width - len(prompt), width)
        layers = [(layer.keys[row, :, own], layer.values[row, :, own]) for layer in cache.layers]
        read[prompt] = ReadPrompt(layers, logits[row])
    return read


def next_logits(
    model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Logits `[rows, V]` of the tokens after `ids`, whose keys and values are added to the cache."""
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, **cache_argument(cache), use_cache=True,
        logits_to_keep=1,
    )  # fmt: skip
    logits: torch.Tensor = output.logits[:, -1]
    return logits
