"""What a scorer is. To add one: a module here, a schema in config.py, a `case` in stage.py, a YAML in conf/scorer."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from cotpress.records import ScoredTrace, Trace


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

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """Yields one record per trace, in order, as they are finished."""
