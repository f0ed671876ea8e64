"""Scores of traces in memory, for callers that keep no artifacts (`cotpress.api`).

The work is that of the jobs in job.py, in chunks of the same size, so that the scores are those of an artifact.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import SAME_WINDOWS, ReadingScorer, TokenScorer
from cotpress.scoring.config import ReadingConfig, ScorerConfig
from cotpress.scoring.job import Work, computed, readings_of
from cotpress.scoring.models import Models
from cotpress.scoring.reader import ConditionReading
from cotpress.scoring.scorers.mix import MixConfig, MixScorer
from cotpress.scoring.table import model_to_read, scorer_of
from cotpress.store.parts import chunk_sizes


@dataclass(frozen=True, slots=True, eq=False)
class _Derived:
    """Scores that `combine` computes from the rows of other work, as a `DerivedJob` does from artifacts."""

    combine: Callable[[Trace, Any], ScoredTrace | str]
    sources: "tuple[_Node, ...]"


_Node = Work | _Derived


class DirectScorer:
    """A scorer, or the decisions of LLMLingua in its place, with its models loaded when they are first needed."""

    def __init__(self, work: _Node) -> None:
        self._work = work

    @classmethod
    def of(cls, config: ScorerConfig, models: Models) -> "DirectScorer":
        """Open the scorer of some settings.

        Raises:
            ConfigError: The scorer cannot work with these settings and models.
            ModelError: A model cannot be found or loaded.
        """
        return cls(_opened(config, models, {}))

    def refusal(self, trace: Trace) -> str | None:
        """Give a reason why a trace cannot be scored, or None; costs no forward pass."""
        return _refusal(self._work, trace)

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace | str]:
        """Yield the record of every trace, in order, or the reason why it has none.

        Raises:
            ModelError: Numbers are not finite.
            MemoryLimitError: A single text does not fit the memory.
        """
        first = 0
        for number, _ in chunk_sizes(len(trace.thinking) for trace in traces):
            with torch.no_grad():  # as in Lightning's loop; scorers that need gradients switch them on
                rows = _rows(self._work, traces[first : first + number], {})
            yield from rows
            first += number


def _opened(config: ScorerConfig, models: Models, readings: dict[Any, ConditionReading]) -> _Node:
    """Open the work of a scorer; its parts share `readings` that are the same."""
    config.check(has_reference=models.reference is not None)
    kind = scorer_of(config)
    if isinstance(config, ReadingConfig):
        models = models.reading_with(model_to_read(config, models.config))
    if issubclass(kind, TokenScorer):
        work: _Node = kind.build(config, models)
        return work
    if isinstance(config, MixConfig):
        parts = tuple(_opened(part, models, readings) for part in config.weighted.values())
        return _Derived(MixScorer(config, models).combine, parts)
    assert issubclass(kind, ReadingScorer)
    assert isinstance(config, ReadingConfig)
    scorer = kind(config)
    sources = []
    for spec in readings_of(scorer.readings(), in_windows=True):
        key = (spec, config.template, id(models))
        if key not in readings:
            readings[key] = spec.open(config.template, models)
        sources.append(readings[key])
    return _Derived(scorer.combine, tuple(sources))


def _rows(node: _Node, traces: Sequence[Trace], known: dict[int, list[Any]]) -> list[Any]:
    """Compute the rows of some traces, or the reasons of those that have none; `known` holds those of finished work."""
    if id(node) not in known:
        if isinstance(node, _Derived):
            columns = [_rows(source, traces, known) for source in node.sources]
            present = [[None if isinstance(row, str) else row for row in rows] for rows in zip(*columns, strict=True)]
            known[id(node)] = [node.combine(trace, rows) for trace, rows in zip(traces, present, strict=True)]
        else:
            known[id(node)] = computed(node, traces)
    return known[id(node)]


def _refusal(node: _Node, trace: Trace) -> str | None:
    if isinstance(node, _Derived):
        return next((reason for source in node.sources if (reason := _refusal(source, trace))), None)
    if isinstance(node, ConditionReading):
        plan = node.plan(trace)
        return plan if isinstance(plan, str) and plan != SAME_WINDOWS else None
    return node.refusal(trace)
