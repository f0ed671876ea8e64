"""Batched generation with a transformers model: rows leave the batch when they end, and others take their place.

A plain `generate` computes every row of a batch until the longest one ends. Here the longest prompts begin (the rest
fit whatever room these needed, and the batch does not end on a few long rows), and as soon as some rows have ended, the
next prompts join those that are still writing. On a CPU a step of a few rows costs nearly as much as one of many, so a
batch that stays full is most of the gain.

A text does not depend on its batch: up to the rounding of matrix products of another size, greedy texts are those of
`generate` row by row, and sampled ones come from a random stream of their own.

Draws the next token of every row from the row's own stream of random numbers.

A generator shared by a batch would make each text depend on its neighbours, and a run that is resumed after a kill
would write others than one that was not. Here a row owns a counter-based generator (Philox), keyed by the seed and
the name of its stream; step `k` of a row takes the k-th number of that stream, whoever stands beside it.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from cotpress.devices.memory import is_out_of_memory, release, smaller_batches
from cotpress.generation.base import LENGTH, STOP, Generation, OnDone, Sampling, budgets
from cotpress.modeling.loading import cache_argument

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotpress.generation.prefill import PromptReader, ReadPrompt

log = logging.getLogger(__name__)


class RowStreams:
    """Uniform random numbers, one independent stream per row.

    Args:
        seed: Seed of all streams.
        names: One name per row, e.g. `problem id/sample`; equal names give equal numbers.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=_key(seed, name))) for name in names]

    def draw(self, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """The next number in [0, 1) of each of the given rows: float64 `[rows]`."""
        return torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64).to(device)


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")


def sampled_tokens(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Next token per row by inverting the cumulative distribution at the row's number.

    The distribution is summed in the vocabulary's order and not from the likeliest down: two tokens of nearly equal
    probability would change places with the rounding of another batch size, and the text with them.

    Args:
        logits: `[rows, V]`.
        uniforms: float64 `[rows]` in [0, 1).
        temperature: Above 0.
        top_p: Smallest set of likeliest tokens with this much probability, in (0, 1]; tokens as likely as the last of
            them are in it as well, since which of them comes first is nothing that the model said.

    Returns:
        int64 `[rows]`.
    """
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        # all tokens below this probability together hold less than 1 - top_p: none of them is in the set
        candidates = int((probabilities >= (1 - top_p) / logits.shape[-1]).sum(-1).max())
        ordered = probabilities.topk(candidates, dim=-1).values
        least = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 1.0).amin(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    below = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))  # rounding reaches no end
    return torch.searchsorted(cumulative, below[:, None], right=True)[:, 0]  # right: no token of probability 0


_Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""Logits `[rows, V]` and the indices of the rows' prompts to the next token of each."""
JOIN_SHARE = 1 / 8
"""Prompts join when this share of the batch is free: reading a few of them at once costs less than one by one."""


@dataclass(slots=True)
class _Row:
    """A prompt that is being answered."""

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
    """Completions of all prompts, in their order.

    Args:
        model: Causal language model in eval mode.
        tokenizer: Its tokenizer.
        prompts: Token ids, each of at least one token.
        max_new_tokens: Budget per completion, in tokens, the end token included; one for all or one for each.
        batch_size: Prompts at once.
        sampling: How tokens are chosen; None is greedy.
        streams: Name of each prompt's stream of random numbers: what is drawn depends on the seed and this name, not
            on the batch. None names them by their index.
        on_done: Called with a prompt's index and completion as soon as it is finished.

    Raises:
        MemoryLimitError: A single row does not fit the memory.
    """
    names = [str(i) for i in range(len(prompts))] if streams is None else streams
    ends, limits = _end_ids(model, tokenizer), budgets(max_new_tokens, len(prompts))
    done: dict[int, Generation] = {}

    def finish(asked: Sequence[int], row: _Row) -> None:
        index = asked[row.index]
        stopped = row.written[-1] in ends
        kept = row.written[:-1] if stopped else row.written
        text, reason = str(tokenizer.decode(kept, skip_special_tokens=False)), STOP if stopped else LENGTH
        done[index] = Generation(token_ids=tuple(kept), text=text, finish_reason=reason, latency_s=row.seconds)
        if on_done is not None:
            on_done(index, done[index])

    smaller = smaller_batches(model, "generation", "trainer.generation_tokens")
    while left := [i for i in range(len(prompts)) if i not in done]:
        choose = _chooser(sampling, [names[i] for i in left])  # from the start of each stream, however often it begins
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
        release()  # rows that had not ended begin anew, with fewer beside them, and end the same
    return [done[i] for i in range(len(prompts))]


class _Writer:
    """One call: the prompts that wait and the rows that write, in the order of the cache's slots."""

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
        self._held: dict[tuple[int, ...], ReadPrompt] = {}
        self._cache = RowCache(self._batch_size, self._device)

    @torch.inference_mode()
    def run(self, finish: Callable[[_Row], None]) -> None:
        """Answer all prompts; `finish` gets each row as soon as it has ended."""
        from cotpress.generation.prefill import PromptReader

        reader = PromptReader(self._model, self._prompts)
        while self._waiting or self._rows:
            began = time.monotonic()
            joins = self._waiting and self._batch_size - len(self._rows) >= JOIN_SHARE * self._batch_size
            writing, logits = self._join(reader) if joins else self._step()
            for row, token in zip(writing, self._choose(logits, [r.index for r in writing]).tolist(), strict=True):
                row.written.append(token)
            share = (time.monotonic() - began) / len(writing)
            for row in writing:
                row.seconds += share
            self._leave(finish)

    def _join(self, reader: "PromptReader") -> tuple[list[_Row], torch.Tensor]:
        """Read as many prompts as there is room for; their rows, and the logits of their first tokens `[rows, V]`."""
        free = min(self._batch_size - len(self._rows), len(self._waiting))
        entering = [self._waiting.popleft() for _ in range(free)]
        asked = [self._prompts[i] for i in entering]
        unread = [p for p in asked if p not in self._held]
        found = {**self._held, **(reader.read(unread) if unread else {})}
        for prompt in asked:
            self._cache.add(found[prompt].parts)
        following = self._prompts[self._waiting[0]] if self._waiting else None
        self._held = {p: found[p] for p in asked[-1:] if p == following}
        rows = [_Row(i, self._limits[i]) for i in entering]
        self._rows += rows
        return rows, torch.stack([found[p].logits for p in asked])

    def _step(self) -> tuple[list[_Row], torch.Tensor]:
        """One more token of every row: the rows, and the logits of what follows it `[rows, V]`."""
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
        """Take the rows that have ended out of the batch; the last row moves into each free slot."""
        for slot in reversed(range(len(self._rows))):
            row = self._rows[slot]
            if row.written[-1] in self._ends or len(row.written) >= row.limit:
                self._cache.drop(slot)
                self._rows[slot] = self._rows[-1]
                self._rows.pop()
                finish(row)


def _end_ids(model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None)


def _chooser(sampling: Sampling | None, names: Sequence[str]) -> _Choose:
    """How rows choose their next token; `names` are those of the prompts' random streams."""
    if sampling is None or sampling.temperature == 0:
        return lambda logits, rows: logits.argmax(-1)
    temperature, top_p, streams = sampling.temperature, sampling.top_p, RowStreams(sampling.seed, names)
    return lambda logits, rows: sampled_tokens(logits, streams.draw(rows, logits.device), temperature, top_p)
