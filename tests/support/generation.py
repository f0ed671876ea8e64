"""Requests from plain lists, and a transformers backend with a given number of rows per batch."""

from collections.abc import Sequence
from typing import Any

from cotpress.generation.backends import GREEDY, Generation, OnDone, Prompt, Request, Sampling
from cotpress.generation.hf import TransformersBackend


def requests(
    prompts: Sequence[Prompt], max_new_tokens: int | Sequence[int], streams: Sequence[str] | None = None
) -> list[Request]:
    """One request per prompt; without names the streams are called by index."""
    budgets = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    names = [str(i) for i in range(len(prompts))] if streams is None else streams
    return [
        Request(prompt=prompt, max_new_tokens=budget, stream=name)
        for prompt, budget, name in zip(prompts, budgets, names, strict=True)
    ]


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    batch_size: int,
    sampling: Sampling = GREEDY,
    streams: Sequence[str] | None = None,
    on_done: OnDone | None = None,
) -> list[Generation]:
    """Completions of token ids, at most `batch_size` at once."""
    made = requests(prompts, max_new_tokens, streams)
    longest = max((len(request.prompt) + request.max_new_tokens for request in made), default=1)
    backend = TransformersBackend(model, tokenizer, context_tokens=longest, generation_tokens=batch_size * longest)
    return backend.complete(made, sampling=sampling, on_done=on_done)
