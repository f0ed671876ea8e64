"""Base classes of scorers. A scorer gives every thinking token of a trace one finite importance; higher = keep.

    ReadingScorer    a formula over stored readings: log-probability, entropy and rank of every token (most scorers)
    TokenScorer      computes its scores itself, over the tokens of a causal language model's tokenizer
    ModelScorer      a `TokenScorer` that runs a causal language model (reader.py)
    Scorer           anything else, for instance with a tokenizer of its own

The scores of a trace depend on that trace alone: not on the ratio, the batch, the order or the other traces. Modules of
scorers import torch only inside of functions, because the settings stand beside them and are read at every start.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.alignment import pool, tokenize_with_offsets
from cotpress.modeling.segments import unit_ids
from cotpress.records import ReadTrace, ScoredTrace, Trace, Unit
from cotpress.scoring.config import Condition, ReadBy, ReadingConfig, ScorerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotpress.scoring.models import Models

Scores = NDArray[np.floating[Any]]
"""One number per thinking token, `[n]`."""

C = TypeVar("C", bound=ScorerConfig)
R = TypeVar("R", bound=ReadingConfig)

NO_TOKENS = "no token to score"
NO_QUESTION = "no question to condition on"
NO_RESPONSE = "no response to condition on"
CONDITION_TOO_LONG = "condition takes over half of the model's context"
REASONS = (NO_TOKENS, NO_QUESTION, NO_RESPONSE, CONDITION_TOO_LONG)
"""Reasons not to read a trace; of several readings the first one here counts."""
SAME_WINDOWS = "read alike without the other conditions"
"""Reason for a row without tokens in a reading with `beside`: the one without it serves as well."""


class ScorerKind:
    """Facts about a class of scorers that are known from its settings, before anything is loaded.

    Attributes:
        passes: Forward passes of the scoring model over each text, a backward pass counted as two; None if it depends
            on the text. 0 for a scorer with a small model of its own, or with none.
    """

    passes: ClassVar[int | None] = 0

    @classmethod
    def num_passes(cls, config: Any) -> int | None:
        """Passes with these settings."""
        return cls.passes

    @classmethod
    def reads_windows(cls, config: Any) -> bool:
        """True if thinking over the model's context is read in overlapping windows."""
        return False

    @classmethod
    def identity(cls, config: Any, models: "Models") -> dict[str, Any]:
        """Everything besides settings and traces that determines the scores; part of the artifact's fingerprint."""
        return models.tokenizer_identity


class ReadingScorer(ScorerKind, ABC, Generic[R]):
    """A formula over one or more readings of a trace. A subclass gives `score`, and `readings` if there are several."""

    def __init__(self, config: R) -> None:
        self.config = config

    def readings(self) -> tuple[tuple[ReadBy, Condition], ...]:
        """The readings that the formula needs: model and condition of each."""
        return ((self.config.read_by, self.config.condition),)

    @abstractmethod
    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """Compute the score of every thinking token from the readings, in the order of `readings()`."""

    def combine(self, trace: Trace, rows: Sequence[ReadTrace]) -> ScoredTrace | str:
        """Compute the record of a trace from its readings, or give the reason why it has none.

        Args:
            trace: The trace.
            rows: One reading for each of `readings()`; then perhaps the same again in the windows that they share.
        """
        alone = rows[: len(self.readings())]
        refusals = {row.refusal for row in rows} - {"", SAME_WINDOWS}
        if refusals:
            return min(refusals, key=REASONS.index)
        beside = rows[len(alone) :] or alone
        used = [again if again.refusal == "" else row for row, again in zip(alone, beside, strict=True)]
        first, values = used[0], self.score(trace, *used).astype(np.float32)
        assert values.shape == first.token_ids.shape, f"{self.config.name} gave {values.shape} for trace {trace.id}"
        return ScoredTrace(
            id=trace.id,
            token_ids=first.token_ids,
            offsets=first.offsets,
            scores=pooled(self.config, values, trace.thinking, first.offsets),
            tokenizer=first.tokenizer,
            scorer=self.config.name,
        )

    @classmethod
    def num_passes(cls, config: Any) -> int | None:
        """See `ScorerKind`."""
        return len(cls(config).readings())

    @classmethod
    def reads_windows(cls, config: Any) -> bool:
        """See `ScorerKind`."""
        return True

    @classmethod
    def identity(cls, config: Any, models: "Models") -> dict[str, Any]:
        """See `ScorerKind`."""
        return models.reading_identity(config.template, reference=config.needs_reference)


class Scorer(ScorerKind, ABC, Generic[C]):
    """A scorer that computes its scores itself.

    Attributes:
        name: Name written into the records and shown in tables.
    """

    name: str

    @classmethod
    @abstractmethod
    def build(cls, config: C, models: "Models") -> "Scorer[C]":
        """Make the scorer, in every process that scores; `models` loads what it is asked for."""

    def refusal(self, trace: Trace) -> str | None:
        """Give the reason why `trace` cannot be scored, or None; refused traces are counted by it and never scored."""
        return None

    @abstractmethod
    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """Yield one record per trace, in order, as they are finished."""


class TokenScorer(Scorer[C]):
    """A scorer over the tokens of a causal language model's tokenizer; a subclass gives `values`."""

    def __init__(self, config: C, tokenizer: "PreTrainedTokenizerBase") -> None:
        from cotpress.modeling.loading import tokenizer_fingerprint

        self.config, self.name, self._tokenizer = config, config.name, tokenizer
        self._fingerprint = tokenizer_fingerprint(tokenizer)

    @classmethod
    def build(cls, config: C, models: "Models") -> "TokenScorer[C]":
        """See `Scorer`."""
        return cls(config, models.tokenizer)

    @abstractmethod
    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """Yield float32 `[num_tokens(trace)]` per trace, in order, before pooling."""

    def tokens(self, trace: Trace) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids of the thinking, int32 `[n]`, and the characters they stand for, int32 `[n, 2]`."""
        return tokenize_with_offsets(self._tokenizer, trace.thinking)

    def num_tokens(self, trace: Trace) -> int:
        """Count the thinking tokens, one score each."""
        return len(self.tokens(trace)[0])

    def refusal(self, trace: Trace) -> str | None:
        """See `Scorer`; refuses a thinking without tokens."""
        return None if self.num_tokens(trace) else NO_TOKENS

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """See `Scorer`."""
        for trace, values in zip(traces, self.values(traces), strict=True):
            ids, offsets = self.tokens(trace)
            yield ScoredTrace(
                id=trace.id,
                token_ids=ids,
                offsets=offsets,
                scores=pooled(self.config, values, trace.thinking, offsets),
                tokenizer=self._fingerprint,
                scorer=self.name,
            )


def pooled(
    config: ScorerConfig, values: NDArray[np.float32], thinking: str, offsets: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Replace each value by the mean over its unit of `config.pooling`, if the settings have one."""
    unit = getattr(config, "pooling", Unit.token)
    return values if unit is Unit.token else pool(values, unit_ids(unit, thinking, offsets))
