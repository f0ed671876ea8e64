"""Measures the release: LLMLingua 0.2.2 as CTS (arXiv 2505.17827) calls it. Runs in the release's own environment.

The whole text is scored and cut anew for every ratio, one text at a time.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

from experiments.speed.worker import Job, Measurement, Meter, serve, use_threads

ARGUMENTS: dict[str, Any] = {
    "instruction": "",
    "concate_question": False,
    "use_context_level_filter": False,
    "use_token_level_filter": True,
    "condition_compare": True,
    "condition_in_question": "after",
    "iterative_size": 1800,
    "force_reserve_digit": True,
    "rank_method": "longllmlingua",
}
"""Arguments of `compress_prompt` in the released code of CTS, but for the rate."""
WARM_UP = "First we add 3 and 4, which gives 7. Then we multiply by 2, so the answer is 14. " * 4


class _Counter:
    """Stands for the tokenizer of tiktoken, whose numbers LLMLingua only reports."""

    def encode(self, text: str) -> list[str]:
        return text.split()


def _without_tiktoken() -> None:
    """Real tiktoken would download its vocabulary."""
    import transformers  # noqa: F401  looks for tiktoken when it is imported, and must not take the stub for it

    stub = types.ModuleType("tiktoken")
    stub.encoding_for_model = lambda name: _Counter()  # type: ignore[attr-defined]
    sys.modules["tiktoken"] = stub


def prepare(job: Job) -> Any:
    """One repetition is every text at every ratio."""
    _without_tiktoken()
    use_threads(job)
    import torch
    from llmlingua import PromptCompressor  # type: ignore[import-not-found]

    dtype = getattr(torch, job["dtype"])
    compressor = PromptCompressor(job["checkpoint"], device_map=job["device"], model_config={"torch_dtype": dtype})
    arguments = {**ARGUMENTS, **job.get("release", {})}
    rows = [json.loads(line) for line in Path(job["traces"]).read_text(encoding="utf-8").splitlines()]
    tokens = sum(len(compressor.tokenizer(row["thinking"], add_special_tokens=False)["input_ids"]) for row in rows)

    def compress(thinking: str, response: str, ratio: float) -> str:
        result = compressor.compress_prompt([thinking], question=response, rate=ratio, **arguments)
        return str(result["compressed_prompt"])

    def repeat() -> Measurement:
        with Meter(job["device"]) as meter:
            texts = [[compress(r["thinking"], r["response"], ratio) for r in rows] for ratio in job["ratios"]]
        facts = {"texts": texts} if job.get("keep") else {}
        return Measurement(seconds=meter.seconds, tokens=tokens, peak_bytes=meter.peak_bytes, facts=facts)

    compress(WARM_UP, WARM_UP, 0.5)
    return repeat


if __name__ == "__main__":
    serve(prepare)
