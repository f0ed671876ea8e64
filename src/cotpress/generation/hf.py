"""Batched generation with a transformers model: finished rows leave the batch.

Prompts are sorted by length and left-padded within a batch. A plain `generate` computes every row until the longest
one ends; here the key-value cache is cut down to the rows that are still writing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from cotpress.generation.base import LENGTH, STOP, Generation, Sampling, budgets
from cotpress.generation.sampling import RowStreams, sampled_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""Logits `[rows, V]` and the rows' numbers in the batch to the next token of each."""
SHRINK_BELOW = 0.8
"""Cut the cache when fewer than this share of its rows are still writing; copying it costs about one step."""


@dataclass(slots=True)
class _Batch:
    """Rows of one batch that are still writing; tensors are `[rows, ...]`, shrinking together."""

    rows: list[int]
    mask: torch.Tensor
    position: torch.Tensor
    cache: Any
    written: dict[int, list[int]] = field(default_factory=dict)


def generate(
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    batch_size: int,
    sampling: Sampling | None = None,
    streams: Sequence[str] | None = None,
    on_done: Callable[[int, Generation], None] | None = None,
    on_finished: Callable[[int], None] | None = None,
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
        on_done: Called with a prompt's index and completion as soon as its batch is finished.
        on_finished: Called with a number of rows as soon as so many more have ended; for progress within a batch.
    """
    names = [str(i) for i in range(len(prompts))] if streams is None else streams
    done: dict[int, Generation] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    ends, limits = _end_ids(model, tokenizer), budgets(max_new_tokens, len(prompts))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        began = time.monotonic()
        choose = _chooser(sampling, [names[i] for i in indices])
        written = _decode([prompts[i] for i in indices], model, ends, [limits[i] for i in indices], choose, on_finished)
        latency = (time.monotonic() - began) / len(indices)
        for index, tokens in zip(indices, written, strict=True):
            stopped = bool(tokens) and tokens[-1] in ends
            kept = tokens[:-1] if stopped else tokens
            text = str(tokenizer.decode(kept, skip_special_tokens=False))
            reason = STOP if stopped else LENGTH
            done[index] = Generation(token_ids=tuple(kept), text=text, finish_reason=reason, latency_s=latency)
            if on_done is not None:
                on_done(index, done[index])
    return [done[i] for i in range(len(prompts))]


def _end_ids(model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None)


@torch.inference_mode()
def _decode(
    prompts: Sequence[Sequence[int]],
    model: torch.nn.Module,
    ends: frozenset[int],
    limits: Sequence[int],
    choose: _Choose,
    on_finished: Callable[[int], None] | None,
) -> list[list[int]]:
    device = next(model.parameters()).device
    batch, logits = _prefill(prompts, model, device)
    chosen = choose(logits, batch.rows)
    num_writing = len(prompts)
    while True:
        writing = _record(batch, chosen, ends, limits)
        if on_finished is not None and sum(writing) < num_writing:
            on_finished(num_writing - sum(writing))
        num_writing = sum(writing)
        if not any(writing):
            break
        if sum(writing) < SHRINK_BELOW * len(writing):
            keep = torch.tensor([i for i, w in enumerate(writing) if w], device=device)
            _shrink(batch, keep)
            chosen = chosen[keep]
        batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.rows), 1)], dim=1)
        batch.position = batch.position + 1
        output = model(
            input_ids=chosen[:, None],
            attention_mask=batch.mask,
            position_ids=batch.position[:, None],
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = choose(output.logits[:, -1], batch.rows)
    return [batch.written[i] for i in range(len(prompts))]


def _prefill(
    prompts: Sequence[Sequence[int]], model: torch.nn.Module, device: torch.device
) -> tuple[_Batch, torch.Tensor]:
    from transformers import DynamicCache

    width = max(len(p) for p in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = DynamicCache()
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    rows = list(range(len(prompts)))
    batch = _Batch(rows, mask, mask.sum(1) - 1, cache, {i: [] for i in rows})
    return batch, output.logits[:, -1]


def _record(batch: _Batch, chosen: torch.Tensor, ends: frozenset[int], limits: Sequence[int]) -> list[bool]:
    """Append each row's token unless the row has ended; returns which rows still write."""

    def writes(row: int) -> bool:
        written = batch.written[row]
        return len(written) < limits[row] and not (written and written[-1] in ends)

    for row, token in zip(batch.rows, chosen.tolist(), strict=True):
        if writes(row):
            batch.written[row].append(token)
    return [writes(row) for row in batch.rows]


def _shrink(batch: _Batch, keep: torch.Tensor) -> None:
    batch.rows = [batch.rows[i] for i in keep.tolist()]
    batch.mask, batch.position = batch.mask[keep], batch.position[keep]
    batch.cache.batch_select_indices(keep)


def _chooser(sampling: Sampling | None, names: Sequence[str]) -> _Choose:
    """How the rows of one batch choose their next token; `names` are those of the rows' random streams."""
    if sampling is None or sampling.temperature == 0:
        return lambda logits, rows: logits.argmax(-1)
    temperature, top_p, streams = sampling.temperature, sampling.top_p, RowStreams(sampling.seed, names)
    return lambda logits, rows: sampled_tokens(logits, streams.draw(rows, logits.device), temperature, top_p)
