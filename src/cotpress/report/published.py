"""Numbers that the papers print for a model, benchmark, method and ratio.

They are from single runs, printed without an interval, and their token counts are in the tokenizer of the paper (CTS
counts with that of Qwen2.5-7B for every model). `published.csv` names the source of each.
"""

import csv
import functools
from dataclasses import dataclass
from importlib.resources import files

from cotpress.records import System

MODELS = {"qwen7b": "qwen2.5-7b-instruct", "qwen14b": "qwen2.5-14b-instruct", "llama8b": "llama-3.1-8b-instruct"}
"""Names of conf/model/ for the models of the papers."""
SYSTEMS = {"tokenskip_xlmr": "tokenskip"}
"""Names of papers for scorers with another name here."""
_AS_PRINTED = {("condition", "answer"), ("granularity", "token"), ("protection", "none")}
"""Settings of the papers' tables; a row that another setting distinguishes has no counterpart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One printed result: accuracy in percent, mean generated tokens, paper and table, and a note on comparisons."""

    accuracy: str
    tokens: str
    source: str
    note: str

    @property
    def cell(self) -> str:
        """Accuracy in percent at mean tokens, as in `86.0@152`."""
        return f"{float(self.accuracy):.1f}@{float(self.tokens):.0f}"


def published(model: str, benchmark: str, system: System) -> tuple[Published, ...]:
    """Return all printed results for one system, the paper's own before reruns by others.

    The model is a name of conf/model/ or a hub id, with or without its owner.
    """
    name = model.rpartition("/")[2].lower()
    method = SYSTEMS.get(system.name, system.name).lower()
    if system.ratio is None or set(system.settings) - _AS_PRINTED:
        return ()
    return _table().get((MODELS.get(name, name), benchmark.lower(), method, round(system.ratio, 4)), ())


@functools.cache
def _table() -> dict[tuple[str, str, str, float], tuple[Published, ...]]:
    table: dict[tuple[str, str, str, float], tuple[Published, ...]] = {}
    text = files("cotpress.report").joinpath("published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        key = (row["model"].lower(), row["benchmark"], row["system"].lower(), round(float(row["ratio"]), 4))
        printed = Published(**{name: row[name] for name in ("accuracy", "tokens", "source", "note")})
        table[key] = (*table.get(key, ()), printed)
    return table
