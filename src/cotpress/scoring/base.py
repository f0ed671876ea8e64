"""Base classes of scorers. A scorer gives every thinking token of a trace one finite importance; higher = keep.

    ReadingScorer    a formula over stored readings: log-probability, entropy and rank of every token (most scorers)
    TokenScorer      computes its scores itself, by default over the tokens of the base model's tokenizer
    ModelScorer      a `TokenScorer` that runs a causal language model (reader.py)

The scores of a trace depend on that trace alone: not on the ratio, the batch, the order or the other traces. Modules of
scorers import torch only inside of functions, because the settings stand beside them and are read at every start.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ModelError
from cotpress.modeling.alignment import pool, tokenize_with_offsets
from cotpress.modeling.segments import unit_ids
from cotpress.records import ReadTrace, ScoredTrace, Trace, Unit
from cotpress.scoring.config import Condition, ReadBy, ReadingConfig, ScorerConfig, TokenReadingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotpress.scoring.models import Models

Scores = NDArray[np.floating[Any]]
"""One number per thinking token, `[n]`."""
Tokens = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Token ids of a thinking, int32 `[n]`, and the characters that they stand for, int32 `[n, 2]`."""

C = TypeVar("C", bound=ScorerConfig)
R = TypeVar("R", bound=ReadingConfig)

NO_TOKENS = "no token to score"
NO_QUESTION = "no question to condition on"
NO_RESPONSE = "no response to condition on"
CONDITION_TOO_LONG = "condition takes over half of the model's context"
REASONS = (NO_TOKENS, NO_QUESTION, NO_RESPONSE, CONDITION_TOO_LONG)
"""Reasons not to read a trace; of several readings the first one here counts."""
_BEGINNING = 200
"""Characters of a thinking that mostly show whether it has a token."""
SAME_WINDOWS = "read alike without the other conditions"
"""Reason for a row without tokens in a reading with `beside`: the one without it serves as well."""


class ScorerKind:
    """Facts about a class of scorers that are known from its settings, before anything is loaded."""

    passes: ClassVar[int | None] = 0
    """Forward passes of the scoring model over each text, a backward pass counted as two; None if it depends on the
    text. 0 for a scorer with a small model of its own, or with none; a `ReadingScorer` has one for each reading."""
    is_difference: ClassVar[bool] = False
    """True if scores compare probabilities that are nearly equal; then the model computes in float32 by default, as the
    rounding of bfloat16 can be as large as the difference."""
    edits_cache: ClassVar[bool] = False
    """True if the model goes on from cut or masked caches, which layers with a state do not allow."""

    @classmethod
    def identity(cls, config: Any, models: "Models") -> dict[str, Any]:
        """Everything besides settings and traces that determines the scores; part of the artifact's fingerprint."""
        if isinstance(config, ReadingConfig):
            return models.reading_identity(config.template, reference=config.needs_reference)
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

        The rows are those of `readings()`; then perhaps the same again in the windows that they share.
        """
        alone = rows[: len(self.readings())]
        refusals = {row.refusal for row in rows} - {"", SAME_WINDOWS}
        if refusals:
            return min(refusals, key=REASONS.index)
        beside = rows[len(alone) :] or alone
        used = [again if again.refusal == "" else row for row, again in zip(alone, beside, strict=True)]
        first, values = used[0], self.score(trace, *used).astype(np.float32)
        if values.shape != first.token_ids.shape:
            raise ModelError(
                f"scorer={self.config.name}: its `score` gave {values.shape} scores for the {len(first.token_ids)} "
                f"tokens of trace '{trace.id}'. Fix: one float per thinking token"
            )
        return scored(self.config, trace, (first.token_ids, first.offsets), values, first.tokenizer)


class TokenScorer(ScorerKind, Generic[C]):
    """A scorer that computes its scores itself. A subclass gives `token_values`, or `values` for batches of traces.

    Attributes:
        name: Name written into the records and shown in tables.
    """

    def __init__(self, config: C, tokenizer: "PreTrainedTokenizerBase") -> None:
        from cotpress.modeling.loading import tokenizer_fingerprint

        self.config, self.name, self._tokenizer = config, config.name, tokenizer
        self._fingerprint = tokenizer_fingerprint(tokenizer)
        self._tokenized: tuple[Trace, Tokens] | None = None

    @classmethod
    def build(cls, config: C, models: "Models") -> Self:
        """Make the scorer, in every process that scores; `models` loads what it is asked for."""
        return cls(config, models.tokenizer)

    def tokens(self, trace: Trace) -> Tokens:
        """Tokens of the thinking, one score each; those of the last trace are kept for the next call."""
        if self._tokenized is None or self._tokenized[0] is not trace:
            self._tokenized = trace, tokenize_with_offsets(self._tokenizer, trace.thinking)
        return self._tokenized[1]

    def num_tokens(self, trace: Trace) -> int:
        """Count the thinking tokens."""
        return len(self.tokens(trace)[0])

    def refusal(self, trace: Trace) -> str | None:
        """Give the reason why `trace` cannot be scored, or None; refused traces are counted by it and never scored."""
        beginning = replace(trace, thinking=trace.thinking[:_BEGINNING])
        return None if self.num_tokens(beginning) or self.num_tokens(trace) else NO_TOKENS

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """Compute the values of one trace, float32 `[num_tokens(trace)]`, before pooling."""
        raise NotImplementedError

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """Yield `token_values` of each trace, in order, as they are finished."""
        return map(self.token_values, traces)

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """Yield one record per trace, in order, as they are finished."""
        for trace, values in zip(traces, self.values(traces), strict=True):
            yield scored(self.config, trace, self.tokens(trace), values, self._fingerprint)


def scored(
    config: ScorerConfig, trace: Trace, tokens: Tokens, values: NDArray[np.float32], tokenizer: str
) -> ScoredTrace:
    """The record of a trace; its scores are the values, or the means over units if the settings have a `pooling`."""
    ids, offsets = tokens
    unit = config.pooling if isinstance(config, TokenReadingConfig) else Unit.token
    if unit is not Unit.token:
        values = pool(values, unit_ids(unit, trace.thinking, offsets))
    return ScoredTrace(
        id=trace.id, token_ids=ids, offsets=offsets, scores=values, tokenizer=tokenizer, scorer=config.name
    )
