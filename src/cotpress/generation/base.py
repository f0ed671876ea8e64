"""What a generation backend returns."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generated completion.

    Attributes:
        token_ids: Generated tokens, end token excluded.
        text: Their text, special tokens included: a closing tag may be one.
        finish_reason: `stop` (the model ended) or `length` (the budget ended it).
        latency_s: Seconds of wall time, shared equally within a batch.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    latency_s: float

    @property
    def num_tokens(self) -> int:
        """Generated tokens, end token not counted."""
        return len(self.token_ids)
