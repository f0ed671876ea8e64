"""The parts of the benchmark beside scoring."""

import importlib.util
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.prompts import ChatConfig, ChatFormat
from experiments.speed.bench import FLOAT32, PACKAGE, Bench
from experiments.speed.figures import rates, ratios, timed
from experiments.speed.processes import System
from experiments.speed.scoring import MEGABYTE, OURS
from experiments.speed.selection import TOKENS_PER_TRACE
from experiments.speed.settings import RATIOS
from experiments.speed.texts import Row
from experiments.speed.worker import Measurement

BFLOAT16 = "bfloat16"
TRAINING_LENGTHS = (128, 512, 256)
"""Thinking tokens of the rows trained on, in turns: packing has something to do."""
SEQUENCES_PER_STEP = 4
FASTER_THAN_TRL, FASTER_THAN_PLAIN = "tokens/s / TRL", "tokens/s / plain generate"


def selection(bench: Bench) -> None:
    """Thinking tokens selected per second on one core."""
    s = bench.settings
    rows = bench.texts.rows(s.selected_tokens // TOKENS_PER_TRACE, TOKENS_PER_TRACE)
    job = bench.job(rows, threads=1, selected_tokens=s.selected_tokens, work=str(bench.work / "selection"))
    system = System(module=f"{PACKAGE}.selection", job=job)
    case = f"{s.selected_tokens} tokens"
    measurements = timed(bench.measure("selection", case, {OURS: system}, s.repeats)[OURS])
    million = 1e6
    bench.add("selection", case, "select", "s/million", tuple(million * m.seconds / m.tokens for m in measurements))
    stage = tuple(million * m.facts["stage_seconds"] / m.facts["stage_tokens"] for m in measurements)
    bench.add("selection", case, "compress stage", "s/million", stage)


def agreement(bench: Bench) -> None:
    """Compare bfloat16 scores with float32 ones: rank correlation and changed keep decisions."""
    s = bench.settings
    length = min(1024, max(s.lengths))
    job = bench.job(bench.texts.rows(1 if s.quick else 4, length), ratios=list(RATIOS[-1:]), keep=True)
    systems = {}
    for dtype in (FLOAT32, BFLOAT16):
        system = bench.ours(job)
        systems[dtype] = System(module=system.module, job={**system.job, "dtype": dtype})
    case = f"{length} tokens"
    measurements = bench.measure("agreement", case, systems, 1)
    pairs = list(zip(*(measurements[d][0].facts["scores"] for d in (FLOAT32, BFLOAT16)), strict=True))
    correlations = tuple(float(spearmanr(exact, rough).statistic) for exact, rough in pairs)
    bench.add("agreement", case, "rank correlation, bfloat16 with float32", "", correlations)
    for ratio in RATIOS:
        changed = tuple(100 * _changed(np.array(exact), np.array(rough), ratio) for exact, rough in pairs)
        bench.add("agreement", case, f"changed keep decisions at {ratio:g}", "%", changed)


def number_format(bench: Bench) -> None:
    """Time of cts in float32 over that in bfloat16, whether or not the processor computes in bfloat16."""
    s = bench.settings
    length = min(1024, max(s.lengths))
    job = bench.job(bench.texts.rows(1, length), ratios=list(RATIOS[-1:]))
    system = bench.ours(job)
    systems = {dtype: System(module=system.module, job={**system.job, "dtype": dtype}) for dtype in (FLOAT32, BFLOAT16)}
    case = f"{length} tokens"
    measurements = bench.measure("format", case, systems, s.repeats)
    for dtype, measured in measurements.items():
        bench.add("format", case, dtype, "tokens/s", rates(measured))
    bench.add("format", case, "time in float32 / bfloat16", "x", ratios(measurements[FLOAT32], measurements[BFLOAT16]))


def _changed(exact: NDArray[np.float64], rough: NDArray[np.float64], ratio: float) -> float:
    """Share of the tokens that one selection keeps and the other does not."""
    kept = round(ratio * len(exact))
    masks = [np.argsort(np.argsort(-values, kind="stable")) < kept for values in (exact, rough)]
    return float((masks[0] != masks[1]).mean())


def training(bench: Bench) -> None:
    """sft tokens per second against TRL's SFTTrainer with packing."""
    if importlib.util.find_spec("trl") is None:
        bench.skipped["training"] = "TRL is not installed. Fix: pip install trl datasets"
        return
    s = bench.settings
    count = 3 if s.quick else 8
    texts = [row for _ in range(count) for n in TRAINING_LENGTHS for row in bench.texts.rows(1, n)]
    rows = [_tokens(bench, row) for row in texts]
    mean = sum(len(row["ids"]) for row in rows) / len(rows)
    settings = {
        "threads": s.threads,
        "device": s.device,
        "dtype": bench.best_dtype,
        "sequences_per_step": SEQUENCES_PER_STEP,
        "tokens_per_pack": math.ceil(SEQUENCES_PER_STEP * mean),
        "warmup_rows": SEQUENCES_PER_STEP,
    }
    _against(bench, "training", {"rows": rows, "settings": settings}, len(rows), "trl_tokens_per_s", FASTER_THAN_TRL)


def _tokens(bench: Bench, row: Row) -> dict[str, Any]:
    """A row as a student is trained on it, in token ids."""
    tokenizer = bench.texts.tokenizer
    written = ChatFormat(tokenizer, ChatConfig(system=""))
    prompt = written.prompt_ids(row.question)
    thinking = tokenize_with_offsets(tokenizer, row.thinking)[0].tolist()
    return {"ids": [*prompt, *written.completion_ids(thinking, row.response)], "num_prompt": len(prompt)}


def generation(bench: Bench) -> None:
    """Answer tokens per second against plain `generate` on unsorted batches of the same size."""
    count, batch = (12, 4) if bench.settings.quick else (96, 24)
    settings = {"device": bench.settings.device, "dtype": bench.best_dtype, "batch_size": batch}
    arguments = {"num_prompts": count, "settings": settings}
    measurements = _against(bench, "generation", arguments, count, "plain_tokens_per_s", FASTER_THAN_PLAIN)
    equal = [
        sum(a == b for a, b in zip(ours.facts["token_ids"], plain.facts["token_ids"], strict=True)) / count
        for ours, plain in zip(*measurements, strict=True)
    ]
    bench.add("generation", f"{count} rows", "equal texts", "%", tuple(100 * share for share in equal))


def _against(
    bench: Bench, group: str, arguments: dict[str, Any], count: int, other: str, name: str
) -> tuple[list[Measurement], list[Measurement]]:
    """Compare two functions of the module that has the group's name: the one of cotpress and another."""
    s, case = bench.settings, f"{count} rows"
    job = {"module": f"{PACKAGE}.{group}", "checkpoint": str(bench.checkpoint(s.model)), "threads": s.threads}
    theirs = other.split("_")[0]
    systems = {
        label: System(module=f"{PACKAGE}.call", job={**job, "arguments": arguments, "function": function})
        for label, function in ((OURS, "cotpress_tokens_per_s"), (theirs, other))
    }
    measurements = bench.measure(group, case, systems, s.repeats)
    for label, measured in measurements.items():
        bench.add(group, case, label, "tokens/s", rates(measured))
        bench.add(group, case, f"peak of the process, {label}", "MB", (measured[0].facts["peak_rss_bytes"] / MEGABYTE,))
    values = tuple(a / b for a, b in zip(rates(measurements[OURS]), rates(measurements[theirs]), strict=True))
    bench.add(group, case, name, "x", values)
    return measurements[OURS], measurements[theirs]
