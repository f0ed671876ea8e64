"""Numbers that the papers print for a model, benchmark, method and ratio.

They are from single runs, printed without an interval, and each paper counts tokens in its own way. `published.csv`
names source and protocol of each, and `COUNTS` the measure that counts alike.
"""

import csv
import functools
from dataclasses import dataclass
from importlib.resources import files

from cotpress.records import MASK_LOSS, SOFT_WEIGHTS, Interval, System, SystemResult, Unit

MODELS = {"qwen7b": "qwen2.5-7b-instruct", "qwen14b": "qwen2.5-14b-instruct", "llama8b": "llama-3.1-8b-instruct"}
"""Names of conf/model/ for the models of the papers."""
SYSTEMS = {"tokenskip_xlmr": "tokenskip"}
"""Names of papers for scorers with another name here."""
COUNTS = {"tokenskip": "mean_cot_tokens", "cts": "mean_reference_tokens"}
"""Field of `SystemResult` that counts as a paper does, by protocol: TokenSkip the tokens before the line with the
answer in the student's tokenizer, CTS all tokens in that of Qwen2.5-7B."""
_PROTOCOL, _GRANULARITY = "benchmark.protocol", "granularity"
_AS_PRINTED = {("condition", "answer"), ("protection", "none"), ("allocation", "fixed")}
"""Settings of the papers' tables; a row that another setting distinguishes has no counterpart."""
_UNIT = Unit.token.value
"""Unit that the papers delete."""
_UNITS = {"tokenskip": (_UNIT, Unit.word.value)}
"""Units of methods whose release deletes others as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One printed result: accuracy in percent, mean tokens, protocol, paper and table, and a note on comparisons."""

    accuracy: str
    tokens: str
    protocol: str
    source: str
    note: str

    @property
    def cell(self) -> str:
        """Accuracy in percent at mean tokens, as in `86.0@152`."""
        return f"{float(self.accuracy):.1f}@{float(self.tokens):.0f}"

    def own_tokens(self, row: SystemResult) -> Interval | None:
        """Return the measured tokens of a row, counted as the paper counts; None if they were not counted so."""
        counted: Interval | None = getattr(row, COUNTS[self.protocol])
        return counted


def published(
    model: str, benchmark: str, system: System, protocol: str | None = None, granularity: str | None = None
) -> tuple[Published, ...]:
    """Return all printed results for one system, the paper's own before reruns by others.

    The model is a name of conf/model/ or a hub id, with or without its owner. Results of another protocol than that of
    the system's settings, or else `protocol`, are left out; None leaves none out. So are all results where another
    `granularity` was deleted than in the paper.
    """
    name = model.rpartition("/")[2].lower()
    method = SYSTEMS.get(system.name, system.name).lower()
    settings = dict(system.settings)
    followed, unit = settings.pop(_PROTOCOL, protocol), settings.pop(_GRANULARITY, granularity)
    if (
        system.ratio is None
        or system.variant in (MASK_LOSS, SOFT_WEIGHTS)
        or set(settings.items()) - _AS_PRINTED
        or unit not in (None, *_UNITS.get(method, (_UNIT,)))
    ):
        return ()
    printed = _table().get((MODELS.get(name, name), benchmark.lower(), method, round(system.ratio, 4)), ())
    return tuple(p for p in printed if followed in (None, p.protocol))


@functools.cache
def _table() -> dict[tuple[str, str, str, float], tuple[Published, ...]]:
    table: dict[tuple[str, str, str, float], tuple[Published, ...]] = {}
    text = files("cotpress.report").joinpath("published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        key = (row["model"].lower(), row["benchmark"], row["system"].lower(), round(float(row["ratio"]), 4))
        printed = Published(**{name: row[name] for name in ("accuracy", "tokens", "protocol", "source", "note")})
        table[key] = (*table.get(key, ()), printed)
    return table
