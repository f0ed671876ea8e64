"""Numbers that the papers print for the same model, benchmark, method and asked ratio, to stand beside one's own.

They are single runs, printed without an interval, and their token counts are in the tokenizer of the paper (CTS counts
with that of Qwen2.5-7B for every model). `published.csv` says where each comes from.
"""

import csv
import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from cotpress.records import SystemResult

MODELS = {"qwen7b": "qwen2.5-7b-instruct", "qwen14b": "qwen2.5-14b-instruct", "llama8b": "llama-3.1-8b-instruct"}
"""Names of conf/model/ for the models of the papers."""
SYSTEMS = {"tokenskip_xlmr": "tokenskip"}
"""Names of scorers that do what a paper calls otherwise."""

AS_PRINTED = {"condition=answer", "granularity=token", "protection=none"}
"""Settings in the names of rows that are those of the papers' tables; a row with another setting has no counterpart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One printed result.

    Attributes:
        accuracy: In percent, as printed.
        tokens: Mean generated tokens, as printed.
        actual_ratio: Kept fraction that the paper reports for its training data; None if it does not.
        source: Where it is printed.
        note: What a reader must know to compare; mostly empty.
    """

    accuracy: str
    tokens: str
    actual_ratio: float | None
    source: str
    note: str

    @property
    def cell(self) -> str:
        """`86.0@152`, accuracy in percent at mean tokens."""
        return f"{float(self.accuracy):.1f}@{float(self.tokens):.0f}"


Lookup = Callable[[SystemResult], Published | None]
"""The published counterpart of a row, if there is one."""


def published_numbers(model: str, benchmark: str) -> Lookup:
    """What is published for a model on a benchmark, as a function of the row."""
    return lambda row: next(iter(published(model, benchmark, row.system, row.target_ratio)), None)


def published(model: str, benchmark: str, system: str, ratio: float) -> tuple[Published, ...]:
    """All printed results for one row, the paper's own before reruns by others; empty if there is none.

    Args:
        model: Name of conf/model/ or hub id, with or without its owner.
        benchmark: Name of the benchmark.
        system: Name of the row: scorer, `Original` or `Base`, with or without settings that tell rows apart.
        ratio: Asked kept fraction.
    """
    name = model.rpartition("/")[2].lower()
    words = [w for w in system.split() if not w.startswith("seed=") and w not in AS_PRINTED]
    scorer = " ".join(words).removesuffix(" (Base)").removesuffix(" (mixed)").lower()
    key = (MODELS.get(name, name), benchmark.lower(), SYSTEMS.get(scorer, scorer), round(ratio, 4))
    return _table().get(key, ())


@functools.cache
def _table() -> dict[tuple[str, str, str, float], tuple[Published, ...]]:
    table: dict[tuple[str, str, str, float], tuple[Published, ...]] = {}
    text = files("cotpress.report").joinpath("published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        key = (row["model"].lower(), row["benchmark"], row["system"].lower(), round(float(row["ratio"]), 4))
        found = Published(
            accuracy=row["accuracy"],
            tokens=row["tokens"],
            actual_ratio=float(row["actual_ratio"]) if row["actual_ratio"] else None,
            source=row["source"],
            note=row["note"],
        )
        table[key] = (*table.get(key, ()), found)
    return table
