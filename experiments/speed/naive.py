"""Measures what anyone would write first: one text, two whole forward passes with all logits in float32, per ratio.

Computes the scores of `scorer=cts scorer.template=plain`: log p(x_i | c, x_<i) - log p(x_i | x_<i), the condition c
being the response and a blank line.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiments.speed.texts import Row, read_rows
from experiments.speed.worker import Job, Measurement, Meter, serve, use_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def scores(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", row: Row) -> torch.Tensor:
    """CTS of every thinking token, float32 `[n]`."""
    return logprobs(model, tokenizer, row, row.response + "\n\n") - logprobs(model, tokenizer, row, "")


def logprobs(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", row: Row, condition: str) -> torch.Tensor:
    """log p(x_i | condition, x_<i) of every thinking token, float32 `[n]`."""
    context = [
        tokenizer.bos_token_id,
        *(tokenizer(condition, add_special_tokens=False)["input_ids"] if condition else []),
    ]
    target = tokenizer(row.thinking, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*context, *target]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    every = torch.log_softmax(logits, dim=-1)[:-1].gather(1, ids[0, 1:, None]).squeeze(1)
    return every[len(context) - 1 :]


def prepare(job: Job) -> Any:
    """One repetition is every text at every ratio."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    use_threads(job)
    tokenizer = AutoTokenizer.from_pretrained(job["checkpoint"])
    model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=torch.float32).to(job["device"]).eval()
    rows = read_rows(Path(job["traces"]))

    def compress(row: Row, ratio: float) -> tuple[str, list[float]]:
        values = scores(model, tokenizer, row)
        kept = values.topk(round(ratio * len(values))).indices.sort().values.tolist()
        ids = tokenizer(row.thinking, add_special_tokens=False)["input_ids"]
        return tokenizer.decode([ids[i] for i in kept]), values.tolist()

    def repeat() -> Measurement:
        with Meter(job["device"]) as meter:
            compressed = [[compress(row, ratio) for row in rows] for ratio in job["ratios"]]
        facts = {"scores": [values for _, values in compressed[0]]} if job.get("keep") else {}
        tokens = sum(len(values) for _, values in compressed[0])
        return Measurement(seconds=meter.seconds, tokens=tokens, peak_bytes=meter.peak_bytes, facts=facts)

    compress(Row(id="", question="", thinking="So 3 + 4 = 7. " * 8, response="3 + 4 = 7", answer="7"), 0.5)
    return repeat


if __name__ == "__main__":
    serve(prepare)
