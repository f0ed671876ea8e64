"""Tokens per second of generation: this backend against plain `generate` on unsorted batches of the same size.

Both write greedy answers with the same weights to the same questions, under the same budgets and in batches of the
same size. An untuned model writes to any budget in nearly every row, which no fine-tuned student does: with one budget
for all, no row would ever end before the others. So the budget of each row is the length of the completion that a
student is trained to write for that question (short and long built-in traces, mixed). Plain `generate` has
one budget per batch, the largest in it, as it runs until the last row of a batch has ended.

Both functions load the model themselves, so that each can run in a process of its own: `peak_rss_bytes` is the peak of
the process so far.
"""

import random
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

from cotpress.data.planted import Length, traces
from cotpress.generation.backends import Request
from cotpress.generation.hf import TransformersBackend
from cotpress.prompts import ChatConfig, ChatFormat

LENGTHS, SEED = (Length.short, Length.long), 11


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Input of both systems; `batch_size` is the number of answers at once."""

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 24


class Speed(TypedDict):
    """One measurement; `seconds` does not include loading the model."""

    seconds: float
    tokens: int
    tokens_per_s: float
    peak_rss_bytes: int
    token_ids: list[list[int]]


def workload(checkpoint: Path, num_prompts: int) -> tuple[list[list[int]], list[int]]:
    """Built-in questions as a student reads them, and as budgets the lengths of what it is trained to write."""
    from transformers import AutoTokenizer

    written = ChatFormat(AutoTokenizer.from_pretrained(checkpoint), ChatConfig(system=""))
    per_length = -(-num_prompts // len(LENGTHS))
    made = [
        trace for length in LENGTHS for trace in traces(num_traces=per_length, families=[], length=length, seed=SEED)
    ]
    random.Random(SEED).shuffle(made)
    chosen = made[:num_prompts]
    targets = [written.completion_ids(written.text_ids(t.thinking), t.response) for t in chosen]
    return [written.prompt_ids(t.question) for t in chosen], [len(target) for target in targets]


def cotpress_tokens_per_s(checkpoint: Path, *, num_prompts: int, settings: Settings) -> Speed:
    """The transformers backend of this project, as evaluation opens it.

    Args:
        checkpoint: Folder with safetensors and tokenizer.
        num_prompts: Questions asked; their texts are `workload`'s.
        settings: Where and how.
    """
    model, tokenizer = _load(checkpoint, settings)
    prompts, budgets = workload(checkpoint, num_prompts)
    room = max(len(p) + b for p, b in zip(prompts, budgets, strict=True))
    began = time.monotonic()
    backend = TransformersBackend(model, tokenizer, context_tokens=room, generation_tokens=room * settings.batch_size)
    pairs = zip(prompts, budgets, strict=True)
    requests = [Request(prompt=p, max_new_tokens=b, stream=str(i)) for i, (p, b) in enumerate(pairs)]
    return _speed(began, [list(g.token_ids or ()) for g in backend.complete(requests)])


def plain_tokens_per_s(checkpoint: Path, *, num_prompts: int, settings: Settings) -> Speed:
    """transformers' `generate`, batch after batch in the given order, each to the largest budget in it.

    Arguments as in `cotpress_tokens_per_s`. Tokens beyond a row's own budget are cut off and not counted.
    """
    model, tokenizer = _load(checkpoint, settings)
    prompts, budgets = workload(checkpoint, num_prompts)
    size, end, texts = settings.batch_size, tokenizer.eos_token_id, list[list[int]]()
    began = time.monotonic()
    for start in range(0, len(prompts), size):
        part, limits = prompts[start : start + size], budgets[start : start + size]
        width = max(len(p) for p in part)
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in part]).to(model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part]).to(model.device)
        outputs = model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=max(limits), pad_token_id=end
        )[:, width:]  # fmt: skip
        for row, limit in zip(outputs.tolist(), limits, strict=True):
            texts.append(row[: min(limit, row.index(end) if end in row else limit)])
    return _speed(began, texts)


def _load(checkpoint: Path, settings: Settings) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, settings.dtype)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).to(settings.device).eval()
    return model, AutoTokenizer.from_pretrained(checkpoint)


def _speed(began: float, texts: list[list[int]]) -> Speed:
    seconds, tokens = time.monotonic() - began, sum(len(t) for t in texts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Speed(seconds=seconds, tokens=tokens, tokens_per_s=tokens / seconds, peak_rss_bytes=peak, token_ids=texts)
