"""Write the tables of memory and of GPU hours into docs/scaling.md and docs/reproducing.md (`make docs`, some minutes).

python docs/figures/plan.py

All numbers come from `cotpress.planning` and the papers' own token counts; a slow test compares the pages.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cotpress.devices.config import Strategy, TrainerConfig
from cotpress.modeling.config import ModelConfig
from cotpress.planning.config import PlanConfig
from cotpress.planning.measure import Writing, reading_pass, writing_pass
from cotpress.planning.tables import gigabytes, smallest
from cotpress.planning.training import Training
from cotpress.planning.workload import Work, arithmetic_work, writing_work
from cotpress.scoring.scorers.cts import CtsConfig, CtsScorer
from cotpress.scoring.table import model_to_read
from cotpress.training.config import Method, TuneConfig

ROOT = Path(__file__).parents[2]
PRINTED = ROOT / "src/cotpress/report/published.csv"
MODELS = {
    "qwen7b": "Qwen/Qwen2.5-7B-Instruct",
    "llama8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen14b": "Qwen/Qwen2.5-14B-Instruct",
    "qwen32b": "Qwen/Qwen2.5-32B-Instruct",
    "qwen72b": "Qwen/Qwen2.5-72B-Instruct",
}
TRAINER = TrainerConfig(tokens_per_batch=16384, generation_tokens=262144, activation_checkpointing=True)
"""`trainer=gpu`."""
ASSUMED = PlanConfig()
GSM8K_TRAIN = 7473
"""Training questions of GSM8K."""
VALUABLE_TOKENS = 8_000_000
"""Tokens that CTS's reference model is trained on in one epoch (arXiv 2505.17827)."""
CTS = CtsConfig(name="cts")
CTS_PASSES = len(CtsScorer(CTS).readings())
"""Readings of every text by the reference model, in float32; that of `llmlingua` in bfloat16 is hardly any time."""
PROBLEMS = {"gsm8k": 1319, "math500": 500, "aime24": 30, "gpqa_diamond": 198}
BUDGETS = {"gsm8k": 512, "math500": 32768, "aime24": 32768, "gpqa_diamond": 32768}
"""Most tokens of an answer (`benchmark.max_new_tokens`)."""
LONG_BENCHMARKS = ("math500", "aime24", "gpqa_diamond")
RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5)
EPOCHS = 3
MIXED_RATIO = 0.75
"""Mean of TokenSkip's ratios 1.0, 0.9, 0.8, 0.7, 0.6 and 0.5."""


class Row(NamedTuple):
    """A published table as the work that it takes, by column."""

    table: str
    command: str
    columns: dict[str, list[Work]]


@cache
def training(name: str, method: Method, *, checkpointing: bool = True) -> Training:
    """A preset trained with the recipe of the papers; sequences have at most 4,096 tokens."""
    tune = TuneConfig(method=method, learning_rate=1e-5, epochs=EPOCHS, sequences_per_step=8, lora_rank=8, seed=0)
    trainer = TrainerConfig(tokens_per_batch=TRAINER.tokens_per_batch, activation_checkpointing=checkpointing)
    return Training(name, ModelConfig(name=name, path=MODELS[name], context_tokens=32768), tune, trainer)


@cache
def writing(name: str, benchmark: str) -> Writing:
    """A preset that answers a benchmark."""
    model = ModelConfig(name=name, path=MODELS[name])
    return writing_pass(model, ASSUMED.prompt_tokens, BUDGETS[benchmark])


def memory_table(*, checkpointing: bool) -> str:
    """GB per GPU of every preset, LoRA and full, with every strategy, bold if it fits; GB on disk."""
    head = ["model", "trained", "1 GPU, or ddp", "fsdp2 on 2, 4, 8 GPUs", *(["finished", "checkpoint"] * checkpointing)]
    lines = [_line(head), _line(["---", "---", *["---:"] * (len(head) - 2)])]
    for name, method in ((n, m) for n in MODELS for m in (Method.lora, Method.full)):
        planned = training(name, method)
        trainer = replace(TRAINER, activation_checkpointing=checkpointing, strategy=Strategy.fsdp2)
        usages = [planned.usage(replace(trainer, devices=n)) for n in (1, 2, 4, 8)]
        sizes = [f"{usage.total / 1e9:.0f}" for usage in usages]
        alone, *shared = (
            f"**{size}**" if usage.total <= ASSUMED.room else size for size, usage in zip(sizes, usages, strict=True)
        )
        disk = [gigabytes(planned.result_bytes), gigabytes(planned.checkpoint_bytes)] * checkpointing
        lines.append(_line([name, method.value, alone, " · ".join(shared), *disk]))
    return "\n".join(lines)


def smallest_table() -> str:
    """The smallest setting that fits, for every preset."""
    lines = [_line(["model", "trained", "smallest setting that fits"]), _line(["---", "---", "---"])]
    lines += [smallest_line(name, method) for name in MODELS for method in (Method.lora, Method.full)]
    return "\n".join(lines)


def smallest_line(name: str, method: Method) -> str:
    """The row of one preset in `smallest_table`."""
    settings, _, sizes = (text := smallest(training(name, method), ASSUMED.room)).partition(":")
    return _line([name, method.value, f"`{settings}`:{sizes}" if settings.startswith("trainer") else text])


def hours_table() -> str:
    """GPU hours of the papers' tables, by part."""
    columns = ["traces written", "reference model", "scores", "students", "answers"]
    lines = [_line(["table", "command", *columns, "all"]), _line(["---", "---", *["---:"] * (len(columns) + 1)])]
    for row in rows():
        cells = [_hours(row.columns.get(column, [])) for column in columns]
        total = _hours([part for parts in row.columns.values() for part in parts])
        lines.append(_line([row.table, f"`{row.command}`", *cells, total]))
    return "\n".join(lines)


def rows() -> Iterator[Row]:
    """The papers' tables."""
    for model, command in (
        ("qwen7b", "experiment=tokenskip_gsm8k"),
        ("qwen14b", "experiment=tokenskip_gsm8k model=qwen14b"),
        ("llama8b", "experiment=tokenskip_gsm8k model=llama8b"),
    ):
        where = "table 1" if model == "llama8b" else "figure"
        yield Row(f"TokenSkip, {where}, {model}", command, _tokenskip(model))
    yield Row("CTS, table 6, qwen7b", "sweep=cts_table6", _cts("qwen7b"))
    yield Row("CTS, table 7, llama8b", "sweep=cts_table7", _cts("llama8b"))
    yield Row("CTS, headline, qwen14b", "sweep=cts_headline", _headline())


def _tokenskip(model: str) -> dict[str, list[Work]]:
    """Self-written traces, one student of mixed ratios beside Original, every printed row answered once."""
    printed = _printed(model, "gsm8k")
    written = next(tokens for system, tokens in printed if system == "Original")
    lengths = [ASSUMED.prompt_tokens + round(written * ratio) for ratio in (1, MIXED_RATIO)]
    return {
        "traces written": [_written(model, "gsm8k", GSM8K_TRAIN, written)],
        "students": [_trained(model, Method.lora, GSM8K_TRAIN, tokens) for tokens in lengths],
        "answers": _answers(model, "gsm8k", [t for _, t in printed]),
    }


def _cts(model: str) -> dict[str, list[Work]]:
    """A reference model, three scorers at five ratios beside Original, every printed row answered once."""
    answers = [
        part for name in LONG_BENCHMARKS for part in _answers(model, name, [t for _, t in _printed(model, name)])
    ]
    ratios = [1.0, *(ratio for ratio in RATIOS for _ in ("llmlingua", "tokenskip", "cts"))]
    return {**_reference(), "students": _full_students(model, ratios), "answers": answers}


def _headline() -> dict[str, list[Work]]:
    """As many answers as the 7B model's rows of table 6 have: the paper prints no token counts for 14B."""
    tokens = [t for system, t in _printed("qwen7b", "gpqa_diamond") if system in ("Original", "cts")]
    answers = _answers("qwen14b", "gpqa_diamond", tokens)
    return {**_reference(), "students": _full_students("qwen14b", [1.0, *RATIOS]), "answers": answers}


def _reference() -> dict[str, list[Work]]:
    """Training the 7B reference model, and its forward passes over all thinking: two for cts, one of which llmlingua
    shares."""
    model = model_to_read(CTS, ModelConfig(name="qwen7b", path=MODELS["qwen7b"]))
    texts, runs = VALUABLE_TOKENS // _tokens(), VALUABLE_TOKENS // _tokens() * CTS_PASSES
    flops, share = runs * reading_pass(model, [_tokens()])[1], ASSUMED.scoring_utilisation
    return {
        "reference model": [_trained("qwen7b", Method.full, texts, _tokens())],
        "scores": [arithmetic_work("", ASSUMED, tokens=runs * _tokens(), flops=flops, utilisation=share, float32=True)],
    }


def _full_students(model: str, ratios: Sequence[float]) -> list[Work]:
    texts = VALUABLE_TOKENS // _tokens()
    return [_trained(model, Method.full, texts, _tokens(ratio)) for ratio in ratios]


def _tokens(ratio: float = 1.0) -> int:
    """Tokens of a trace whose thinking is cut to a ratio."""
    return ASSUMED.prompt_tokens + round(ASSUMED.thinking_tokens * ratio) + ASSUMED.response_tokens


def _trained(model: str, method: Method, sequences: int, tokens: int) -> Work:
    planned = training(model, method, checkpointing=method is Method.full)
    runs, share = sequences * EPOCHS, ASSUMED.training_utilisation
    return arithmetic_work("", ASSUMED, tokens=runs * tokens, flops=runs * planned.flops(tokens), utilisation=share)


def _answers(model: str, benchmark: str, tokens: Sequence[float]) -> list[Work]:
    return [_written(model, benchmark, PROBLEMS[benchmark], n) for n in tokens]


def _written(model: str, benchmark: str, answers: int, tokens: float) -> Work:
    rows = TRAINER.generation_tokens // (ASSUMED.prompt_tokens + BUDGETS[benchmark])
    return writing_work("", writing(model, benchmark), ASSUMED, answers=answers, tokens=round(tokens), rows=rows)


def _printed(model: str, benchmark: str) -> list[tuple[str, float]]:
    """System and mean tokens of every row that a paper prints itself; reruns by others and the untuned model that
    stands for Original are left out."""
    with PRINTED.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    return [
        (row["system"], float(row["tokens"]))
        for row in rows
        if row["model"] == MODELS[model].rpartition("/")[2] and "rerun" not in row["source"] and row["system"] != "Base"
    ]


def _hours(parts: Sequence[Work]) -> str:
    hours = sum(part.hours for part in parts)
    return "" if not parts else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def pages() -> dict[Path, str]:
    """The pages with their tables."""
    tables = {
        "memory-checkpointed": memory_table(checkpointing=True),
        "memory": memory_table(checkpointing=False),
        "smallest": smallest_table(),
        "hours": hours_table(),
    }
    texts = {}
    for page in (ROOT / "docs/scaling.md", ROOT / "docs/reproducing.md"):
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            block = re.compile(rf"(<!-- plan: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = block.sub(rf"\1\n{table}\n\n\2", text)
        texts[page] = text
    return texts


if __name__ == "__main__":
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
