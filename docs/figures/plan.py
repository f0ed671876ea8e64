"""Writes the tables of memory and of GPU hours into docs/scaling.md and docs/reproducing.md (`make docs`).

python docs/figures/plan.py

Everything comes from `cotpress.planning` and the papers' own token counts; a test holds the pages to it.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cotpress.devices.config import Strategy
from cotpress.planning.config import PlanConfig
from cotpress.planning.hours import Work, generation_work, scoring_work, total_gpu_hours, training_work
from cotpress.planning.search import GB, Room, fit
from cotpress.planning.setting import Place, Setting
from cotpress.planning.shape import ModelShape
from cotpress.planning.shapes import PUBLISHED
from cotpress.planning.tables import Training, smallest
from cotpress.planning.workload import lengths_of
from cotpress.training.config import Method

ROOT = Path(__file__).parents[2]
PRINTED = ROOT / "src/cotpress/report/published.csv"
MODELS = {
    "qwen7b": "Qwen/Qwen2.5-7B-Instruct",
    "llama8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen14b": "Qwen/Qwen2.5-14B-Instruct",
    "qwen32b": "Qwen/Qwen2.5-32B-Instruct",
    "qwen72b": "Qwen/Qwen2.5-72B-Instruct",
}
LONGEST = 4096
"""Tokens of the longest training sequence (`sft.tune.max_tokens`)."""
PLACES = {
    "1, or ddp": [Place()],
    "fsdp2 on 2, 4, 8": [Place(devices=n, strategy=Strategy.fsdp2) for n in (2, 4, 8)],
}
ROOM = Room()
ASSUMED = PlanConfig()
GSM8K_TRAIN = 7473
"""Training questions of GSM8K."""
VALUABLE_TOKENS = 8_000_000
"""Tokens that CTS's reference model is trained on in one epoch (arXiv 2505.17827)."""
PROBLEMS = {"gsm8k": 1319, "math500": 500, "aime24": 30, "gpqa_diamond": 198}
LONG_BENCHMARKS = ("math500", "aime24", "gpqa_diamond")
RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5)
EPOCHS = 3
MIXED_RATIO = 0.75
"""Mean of TokenSkip's ratios 1.0, .9, .8, .7, .6 and .5."""


class Row(NamedTuple):
    """A published table as the work that it takes, by column."""

    table: str
    command: str
    columns: dict[str, list[Work]]


def memory_table(*, checkpointing: bool) -> str:
    """GB per GPU of every preset, LoRA and full, with every strategy; bold fits."""
    head = ["model", "trained", *(f"{name} GPUs" if "on" in name else "1 GPU, or ddp" for name in PLACES)]
    lines = [_line(head), _line(["---", "---", *["---:"] * len(PLACES)])]
    for name, method in ((n, m) for n in MODELS for m in (Method.lora, Method.full)):
        setting = Setting(method=method, checkpointing=checkpointing)
        groups = [
            " · ".join(_gigabytes(PUBLISHED[MODELS[name]], setting, place) for place in places)
            for places in PLACES.values()
        ]
        lines.append(_line([name, method.value, *groups]))
    return "\n".join(lines)


def smallest_table() -> str:
    """The smallest setting that fits, for every preset."""
    lines = [_line(["model", "trained", "smallest setting that fits"]), _line(["---", "---", "---"])]
    for name, method in ((n, m) for n in MODELS for m in (Method.lora, Method.full)):
        training = Training(name=name, shape=PUBLISHED[MODELS[name]], setting=Setting(method=method), longest=LONGEST)
        found = smallest(training, ROOM)
        settings, _, sizes = found.partition(":")
        lines.append(_line([name, method.value, f"`{settings}`:{sizes}" if settings.startswith("trainer") else found]))
    return "\n".join(lines)


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
    shape, printed = PUBLISHED[MODELS[model]], _printed(model, "gsm8k")
    written = next(tokens for system, tokens in printed if system == "Original")
    lora, tokens = Setting(method=Method.lora), ASSUMED.prompt_tokens + round(written)
    students = [
        training_work("", shape, lora, ASSUMED, sequences=GSM8K_TRAIN, epochs=EPOCHS, tokens=n)
        for n in (tokens, ASSUMED.prompt_tokens + round(written * MIXED_RATIO))
    ]
    return {
        "traces written": [generation_work("", shape, ASSUMED, answers=GSM8K_TRAIN, tokens=round(written))],
        "students": students,
        "answers": _answers(shape, "gsm8k", [t for _, t in printed]),
    }


def _cts(model: str) -> dict[str, list[Work]]:
    """A reference model, three scorers at five ratios beside Original, every printed row answered once."""
    shape = PUBLISHED[MODELS[model]]
    answers = [
        part for name in LONG_BENCHMARKS for part in _answers(shape, name, [t for _, t in _printed(model, name)])
    ]
    ratios = [1.0, *(ratio for ratio in RATIOS for _ in ("llmlingua", "tokenskip", "cts"))]
    return {**_reference(passes=3), "students": _full_students(shape, ratios), "answers": answers}


def _headline() -> dict[str, list[Work]]:
    """As many answers as the 7B model's rows of table 6 have: the paper prints no token counts for 14B."""
    shape, name = PUBLISHED[MODELS["qwen14b"]], "gpqa_diamond"
    tokens = [t for system, t in _printed("qwen7b", name) if system in ("Original", "cts")]
    answers = _answers(shape, name, tokens)
    return {**_reference(passes=2), "students": _full_students(shape, [1.0, *RATIOS]), "answers": answers}


def _reference(passes: int) -> dict[str, list[Work]]:
    """Training the 7B reference model, and its forward passes over all thinking: two for cts, one for llmlingua."""
    shape, tokens = PUBLISHED[MODELS["qwen7b"]], lengths_of(ASSUMED).whole()
    full, texts = Setting(method=Method.full, checkpointing=True), VALUABLE_TOKENS // tokens
    scored = ASSUMED.thinking_tokens
    return {
        "reference model": [
            training_work("", shape, full, ASSUMED, sequences=texts, epochs=EPOCHS, tokens=tokens),
        ],
        "scores": [scoring_work("", shape, ASSUMED, texts=texts, passes=passes, tokens=tokens, scored=scored)],
    }


def _full_students(shape: ModelShape, ratios: Sequence[float]) -> list[Work]:
    full, lengths = Setting(method=Method.full, checkpointing=True), lengths_of(ASSUMED)
    texts = VALUABLE_TOKENS // lengths.whole()
    return [
        training_work("", shape, full, ASSUMED, sequences=texts, epochs=EPOCHS, tokens=lengths.whole(ratio))
        for ratio in ratios
    ]


def _answers(shape: ModelShape, benchmark: str, tokens: Sequence[float]) -> list[Work]:
    return [generation_work("", shape, ASSUMED, answers=PROBLEMS[benchmark], tokens=round(n)) for n in tokens]


def _printed(model: str, benchmark: str) -> list[tuple[str, float]]:
    """System and mean tokens of every row that a paper prints itself; reruns by others and the untuned model that
    stands for Original are left out."""
    with PRINTED.open(encoding="utf-8", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    wanted = MODELS[model].rpartition("/")[2]
    return [
        (row["system"], float(row["tokens"]))
        for row in found
        if row["model"] == wanted and "rerun" not in row["source"] and row["system"] != "Base"
    ]


def _hours(parts: Sequence[Work]) -> str:
    hours = total_gpu_hours(parts, ASSUMED)
    return "" if not parts else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}"


def _gigabytes(shape: ModelShape, setting: Setting, place: Place) -> str:
    found = fit(shape, setting, place, ROOM)
    size = f"{found.usage.total / GB:.0f}"
    return f"**{size}**" if found.margin >= 0 else size


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def pages() -> dict[Path, str]:
    """The pages as they have to be."""
    tables = {
        "memory-checkpointed": memory_table(checkpointing=True),
        "memory": memory_table(checkpointing=False),
        "smallest": smallest_table(),
        "hours": hours_table(),
    }
    found = {}
    for page in (ROOT / "docs/scaling.md", ROOT / "docs/reproducing.md"):
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            block = re.compile(rf"(<!-- plan: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = block.sub(rf"\1\n{table}\n\n\2", text)
        found[page] = text
    return found


if __name__ == "__main__":
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
