"""What a scorer is. To add one: a module here, a schema in config.py, a line in plan.py, a YAML in conf/scorer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.alignment import pool, tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.segments import unit_ids
from cotpress.records import ScoredTrace, Trace, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


NO_TOKENS = "no token to score"
"""Why a thinking text is dropped that the scorer's tokenizer makes nothing of."""


class Scorer(Protocol):
    """Gives every thinking token of a trace one finite importance; higher = more important.

    The scores of a trace depend on that trace alone: not on the ratio, the batch, the order or the other traces.
    """

    @property
    def name(self) -> str:
        """Name written into the records and shown in tables."""

    def num_tokens(self, trace: Trace) -> int:
        """Thinking tokens of `trace` in the scorer's own tokenizer: what `score` will return scores for."""

    def refusal(self, trace: Trace) -> str | None:
        """Why `trace` cannot be scored, or None; refused traces are counted by this text and never scored."""

    def in_windows(self, trace: Trace) -> bool:
        """True if `trace` is read in overlapping windows because it is longer than the model's context."""

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """Yields one record per trace, in order, as they are finished."""


class TokenScorer(ABC):
    """A scorer over the tokens of a causal language model's tokenizer; a subclass gives the values."""

    def __init__(self, name: str, tokenizer: "PreTrainedTokenizerBase", pooling: Unit = Unit.token) -> None:
        self._name, self._tokenizer, self._pooling = name, tokenizer, pooling
        self._fingerprint = tokenizer_fingerprint(tokenizer)

    @property
    def name(self) -> str:
        """See `Scorer`."""
        return self._name

    @abstractmethod
    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """Yields float32 `[num_tokens(trace)]` per trace, in order, before pooling."""

    def tokens(self, trace: Trace) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids of the thinking, int32 `[n]`, and the characters they stand for, int32 `[n, 2]`."""
        return tokenize_with_offsets(self._tokenizer, trace.thinking)

    def num_tokens(self, trace: Trace) -> int:
        """See `Scorer`."""
        return len(self.tokens(trace)[0])

    def refusal(self, trace: Trace) -> str | None:
        """See `Scorer`; by default every trace can be scored."""
        return None

    def in_windows(self, trace: Trace) -> bool:
        """See `Scorer`; by default every trace is read in one go."""
        return False

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """See `Scorer`."""
        for trace, values in zip(traces, self.values(traces), strict=True):
            ids, offsets = self.tokens(trace)
            if self._pooling is not Unit.token:
                values = pool(values, unit_ids(self._pooling, trace.thinking, offsets))
            yield ScoredTrace(
                id=trace.id,
                token_ids=ids,
                offsets=offsets,
                scores=values,
                tokenizer=self._fingerprint,
                scorer=self._name,
            )
