"""Scorers of any kind on traces in memory, without artifacts."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from cotpress.devices.config import TrainerConfig
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import ReadingScorer
from cotpress.scoring.config import Condition, ReadBy, ScorerConfig, Template
from cotpress.scoring.models import Models
from cotpress.scoring.reader import ConditionReading, Reader
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.table import scorer_identity, scorer_of
from support.remembered import remembered


class Derived:
    """A scorer that is computed from the rows of others, with the interface of those that run a model."""

    def __init__(self, name: str, sources: Sequence[Any], combine: Callable[[Trace, Any], ScoredTrace | str]) -> None:
        self.name, self.sources, self._combine = name, sources, combine
        self._row = remembered(lambda trace: next(self._rows([trace])))

    def _rows(self, traces: Sequence[Trace]) -> Iterator[Any]:
        sources = [{row.id: row for row in _rows(source, traces)} for source in self.sources]
        for trace in traces:
            yield self._combine(trace, [rows.get(trace.id) for rows in sources])

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """Yield the records of all traces that are not refused."""
        return (row for row in self._rows(traces) if not isinstance(row, str))

    def refusal(self, trace: Trace) -> str | None:
        """Give the reason why a trace has no scores, or None."""
        row = self._row(trace)
        return row if isinstance(row, str) else None

    def num_tokens(self, trace: Trace) -> int:
        """Count the scores of a trace."""
        row = self._row(trace)
        return 0 if isinstance(row, str) else len(row.scores)

    def in_windows(self, trace: Trace) -> bool:
        """True if a reading of the trace is in windows."""
        return any(row.in_windows for source in self.sources for row in source.score([trace]))


def _rows(source: Any, traces: Sequence[Trace]) -> Iterator[Any]:
    return source.score([trace for trace in traces if source.refusal(trace) is None])


def reading_scorer(config: Any, reader: Reader, *models: Any) -> Derived:
    """A scorer over readings of given models: the reference model, then the base model; one stands for both."""
    scorer = scorer_of(config)(config)
    assert isinstance(scorer, ReadingScorer)
    needed = scorer.readings()
    conditions = {condition for _, condition in needed}
    groups = [(), tuple(conditions)] if len(conditions) > 1 else [()]
    sources = [reading(reader, models, by, condition, group) for group in groups for by, condition in needed]
    return Derived(config.name, sources, scorer.combine)


def reading(
    reader: Reader, models: Sequence[Any], read_by: ReadBy, condition: Condition, beside: Sequence[Condition] = ()
) -> ConditionReading:
    """A reading by given models: the reference model, then the base model; one stands for both."""
    loaded: Any = SimpleNamespace(
        reader=lambda template, tokens_per_batch: reader,
        model=lambda by, forwards_only: models[0 if by is ReadBy.reference else -1],
        trainer=TrainerConfig(),
    )
    return ConditionReading("reading", Template.chat, read_by, condition, beside, loaded)


def built(config: ScorerConfig, models: Models) -> Any:
    """Any scorer with the models that it names."""
    kind = scorer_of(config)
    if isinstance(config, MixConfig):
        parts = [built(config.parts[name], models) for name in config.weighted]
        return Derived(config.name, parts, kind(config, models).combine)
    if issubclass(kind, ReadingScorer):
        reader = models.reader(config.template, models.trainer.tokens_per_batch)
        return reading_scorer(config, reader, models.model(ReadBy.reference), models.model(ReadBy.base))
    return kind.build(config, models)


def models_of(base: Any, trainer: Any, store: Any, reference: Any = None, distilled: Any = None) -> Models:
    """The models of a job, nothing loaded."""
    return Models(config=base, reference=reference, distilled=distilled, trainer=trainer, store=store)


def identity_of(config: ScorerConfig, models: Models) -> dict[str, Any]:
    """Everything besides settings and traces that determines the scores."""
    return scorer_identity(config, models)
