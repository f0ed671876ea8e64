"""Batched generation with a transformers model.

Unlike `model.generate`, a finished row leaves the batch with its part of the key-value cache, so a batch costs what
its rows cost and not `rows x longest row`.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from cotpress.generation.base import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: Smallest probability mass that is sampled from, in (0, 1].
        seed: Every row draws from its own stream, so a text does not depend on its batch.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def generate(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling | None = None,
    on_done: Callable[[int, Generation], None] | None = None,
) -> list[Generation]:
    """Completions in the order of the prompts.

    Args:
        model: Causal language model in eval mode.
        tokenizer: Decodes the texts.
        prompts: Token ids of each prompt, none of them empty.
        max_new_tokens: Budget per completion, end token included.
        batch_size: Rows generated at once.
        sampling: How tokens are chosen; greedy by default.
        on_done: Called with the index of a prompt and its completion, batch by batch.
    """
    sampling = sampling or Sampling()
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    found: dict[int, Generation] = {}
    ends = end_ids(model, tokenizer)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        started = time.monotonic()
        outputs = _generate_batch(model, [prompts[i] for i in rows], rows, max_new_tokens, ends, sampling)
        latency = (time.monotonic() - started) / len(rows)
        for row, ids in zip(rows, outputs, strict=True):
            found[row] = _generation(tokenizer, ids, ends, latency)
            if on_done is not None:
                on_done(row, found[row])
    return [found[i] for i in range(len(prompts))]


def end_ids(model: Any, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Tokens that end a completion: those of the generation config and the tokenizer's own."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _generation(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], ends: frozenset[int], latency_s: float
) -> Generation:
    stopped = bool(ids) and ids[-1] in ends
    kept = ids[:-1] if stopped else ids
    text = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Generation(
        token_ids=tuple(kept), text=str(text), finish_reason="stop" if stopped else "length", latency_s=latency_s
    )


@torch.inference_mode()
def _generate_batch(
    model: Any,
    prompts: list[Sequence[int]],
    streams: list[int],
    max_new_tokens: int,
    ends: frozenset[int],
    sampling: Sampling,
) -> list[list[int]]:
    from transformers import DynamicCache

    outputs: list[list[int]] = [[] for _ in prompts]
    inputs, mask = _left_pad(prompts, model.device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    generators = [torch.Generator().manual_seed((sampling.seed << 20) + stream) for stream in streams]
    alive = list(range(len(prompts)))
    cache = DynamicCache(config=model.config)
    for length in itertools.count(1):
        logits = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = _choose(logits, [generators[row] for row in alive], sampling)
        for row, token in zip(alive, tokens, strict=True):
            outputs[row].append(token)
        staying = [i for i, token in enumerate(tokens) if token not in ends]
        if not staying or length >= max_new_tokens:
            return outputs
        if len(staying) < len(alive):
            keep = torch.tensor(staying, device=mask.device)
            cache.batch_select_indices(keep)
            mask, positions = mask[keep], positions[keep]
            alive = [alive[i] for i in staying]
        inputs = torch.tensor([[tokens[i]] for i in staying], device=mask.device)
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        positions = positions[:, -1:] + 1
    raise AssertionError("unreachable")


def _left_pad(prompts: list[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, int64 `[B, L]`; padding on the left, so that every row's last position is its newest."""
    width = max(map(len, prompts))
    inputs = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return inputs, mask


def _choose(logits: torch.Tensor, generators: list[torch.Generator], sampling: Sampling) -> list[int]:
    if sampling.temperature == 0:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    probabilities = (logits.float() / sampling.temperature).softmax(-1).cpu()
    ranked, ids = probabilities.sort(-1, descending=True)
    outside = ranked.cumsum(-1) - ranked >= sampling.top_p  # mass before the token already suffices
    ranked = ranked.masked_fill(outside, 0.0)
    draws = [torch.multinomial(row, 1, generator=g) for row, g in zip(ranked, generators, strict=True)]
    return [int(ids[i, draw]) for i, draw in enumerate(draws)]
