"""Measures what the hardware allows: bare forwards of the same tokens, and the LM head on the scored rows alone.

No softmax, no text, no file. On a CPU one text at a time without padding, as batches gain nothing there; on a GPU texts
of similar length together.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from cotpress.devices.memory import keep_freed_memory
from experiments.speed.texts import read_rows
from experiments.speed.worker import Job, Measurement, Meter, serve, use_threads

HEAD_ROWS = 512
"""Rows that the head sees at once: 100 MB of float32 logits with a vocabulary of 49,152."""
GPU_TOKENS = 32768
"""Tokens of one forward pass on a GPU."""

Sequences = list[tuple[list[int], int]]
"""Token ids of whole sequences, and how many of the last ones are scored."""


def prepare(job: Job) -> Any:
    """One repetition is both passes over every text, whatever the number of ratios."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    use_threads(job)
    keep_freed_memory()  # page faults are no limit of the hardware
    tokenizer = AutoTokenizer.from_pretrained(job["checkpoint"])
    model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=getattr(torch, job["dtype"]))
    model.to(job["device"]).eval()
    sequences: Sequences = []
    for row in read_rows(Path(job["traces"])):
        target = tokenizer(row.thinking, add_special_tokens=False)["input_ids"]
        condition = tokenizer(row.response + "\n\n", add_special_tokens=False)["input_ids"]
        sequences.append(([tokenizer.bos_token_id, *condition, *target], len(target)))
        sequences.append(([tokenizer.bos_token_id, *target], len(target)))
    batches = list(_batches(sequences, GPU_TOKENS if job["device"] == "cuda" else 1))
    tokens = sum(scored for _, scored in sequences) // 2

    def repeat() -> Measurement:
        with Meter(job["device"]) as meter:
            for batch in batches:
                _forward(model, batch)
        return Measurement(seconds=meter.seconds, tokens=tokens, peak_bytes=meter.peak_bytes)

    _forward(model, [(sequences[0][0][:32], 16)])
    return repeat


def _batches(sequences: Sequences, tokens_at_once: int) -> Iterator[Sequences]:
    order = sorted(sequences, key=lambda pair: -len(pair[0]))
    while order:
        size = max(tokens_at_once // len(order[0][0]), 1)
        yield order[:size]
        order = order[size:]


@torch.inference_mode()
def _forward(model: Any, batch: Sequence[tuple[list[int], int]]) -> None:
    longest = max(len(ids) for ids, _ in batch)
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch], device=model.device)
    hidden = model.get_decoder()(input_ids=padded, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    for row, (ids, scored) in enumerate(batch):
        for part in hidden[row, len(ids) - scored - 1 : len(ids) - 1].split(HEAD_ROWS):
            head(part)


if __name__ == "__main__":
    serve(prepare)
