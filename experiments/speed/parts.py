"""The parts of the benchmark beside scoring."""

import importlib.util

import numpy as np
from scipy.stats import spearmanr

from experiments.speed.bench import FLOAT32, PACKAGE, Bench
from experiments.speed.figures import rates
from experiments.speed.processes import System
from experiments.speed.scoring import MEGABYTE, OURS
from experiments.speed.selection import TOKENS_PER_TRACE
from experiments.speed.settings import RATIOS
from experiments.speed.texts import Row

BFLOAT16 = "bfloat16"
TRAINING_LENGTHS = (128, 512, 256)
"""Thinking tokens of the rows trained on, in turns: packing has something to do."""
GENERATION_ROWS, GENERATION_ROWS_QUICK = 32, 8
FASTER_THAN_TRL, FASTER_THAN_PLAIN = "tokens/s / TRL", "tokens/s / plain generate"


def selection(bench: Bench) -> None:
    """Thinking tokens selected per second on one core."""
    s = bench.settings
    rows = bench.texts.rows(s.selected_tokens // TOKENS_PER_TRACE, TOKENS_PER_TRACE)
    job = bench.job(rows, threads=1, selected_tokens=s.selected_tokens, work=str(bench.work / "selection"))
    system = System(module=f"{PACKAGE}.selection", job=job)
    case = f"{s.selected_tokens} tokens"
    found = bench.measure("selection", case, {OURS: system}, s.repeats)[OURS]
    million = 1e6
    bench.add("selection", case, "select", "s/million", tuple(million * m.seconds / m.tokens for m in found))
    stage = tuple(million * m.facts["stage_seconds"] / m.facts["stage_tokens"] for m in found)
    bench.add("selection", case, "compress stage", "s/million", stage)


def agreement(bench: Bench) -> None:
    """How far bfloat16 scores are from float32 ones: rank correlation, and keep decisions that differ."""
    s = bench.settings
    length = min(1024, max(s.lengths))
    job = bench.job(bench.texts.rows(2, length), ratios=list(RATIOS[-1:]), keep=True)
    systems = {}
    for dtype in (FLOAT32, BFLOAT16):
        system = bench.ours(job)
        systems[dtype] = System(module=system.module, job={**system.job, "dtype": dtype})
    case = f"{length} tokens"
    found = bench.measure("agreement", case, systems, 1)
    pairs = list(zip(*(found[d][0].facts["scores"] for d in (FLOAT32, BFLOAT16)), strict=True))
    correlations = tuple(float(spearmanr(exact, rough).statistic) for exact, rough in pairs)
    bench.add("agreement", case, "rank correlation, bfloat16 with float32", "", correlations)
    for ratio in RATIOS:
        changed = tuple(100 * _changed(np.array(exact), np.array(rough), ratio) for exact, rough in pairs)
        bench.add("agreement", case, f"changed keep decisions at {ratio:g}", "%", changed)


def _changed(exact: np.ndarray, rough: np.ndarray, ratio: float) -> float:  # type: ignore[type-arg]
    """Share of the tokens that one selection keeps and the other does not."""
    kept = round(ratio * len(exact))
    masks = [np.argsort(np.argsort(-values, kind="stable")) < kept for values in (exact, rough)]
    return float((masks[0] != masks[1]).mean())


def training(bench: Bench) -> None:
    """sft tokens per second against TRL's SFTTrainer with packing."""
    if importlib.util.find_spec("trl") is None:
        bench.skipped["training"] = "TRL is not installed. Fix: pip install -e '.[bench]' -c constraints.txt"
        return
    count = 2 if bench.settings.quick else 8
    rows = [row for _ in range(count) for n in TRAINING_LENGTHS for row in bench.texts.rows(1, n)]
    _against(bench, "training", rows, "trl_tokens_per_s", FASTER_THAN_TRL)


def generation(bench: Bench) -> None:
    """Answer tokens per second against plain `generate` on unsorted batches of the same size."""
    rows = bench.texts.rows(GENERATION_ROWS_QUICK if bench.settings.quick else GENERATION_ROWS, 64)
    _against(bench, "generation", rows, "plain_tokens_per_s", FASTER_THAN_PLAIN)


def _against(bench: Bench, group: str, rows: list[Row], other: str, name: str) -> None:
    """Compare two functions of the module that has the group's name."""
    module = f"{PACKAGE}.{group}"
    if importlib.util.find_spec(module) is None:
        bench.skipped[group] = f"there is no {module}"
        return
    s = bench.settings
    call = {"module": module, "settings": {"device": s.device, "dtype": bench.best_dtype, "threads": s.threads}}
    job = bench.job(rows, **call)
    systems = {
        label: System(module=f"{PACKAGE}.call", job={**job, "function": function})
        for label, function in ((OURS, "cotpress_tokens_per_s"), (other.split("_")[0], other))
    }
    found = bench.measure(group, f"{len(rows)} rows", systems, s.repeats)
    for label, measured in found.items():
        bench.add(group, f"{len(rows)} rows", label, "tokens/s", rates(measured))
        peak = measured[0].peak_bytes
        if peak is not None:
            bench.add(group, f"{len(rows)} rows", f"peak memory, {label}", "MB", (peak / MEGABYTE,))
    ours, theirs = found.values()
    values = tuple(a / b for a, b in zip(rates(ours), rates(theirs), strict=True))
    bench.add(group, f"{len(rows)} rows", name, "x", values)
