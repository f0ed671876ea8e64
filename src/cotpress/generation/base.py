"""What a generation backend gives back."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generated completion.

    Attributes:
        token_ids: Generated tokens, the end token not included.
        text: The same as text; special tokens that the model wrote inside are kept (a `</think>` may be one).
        finish_reason: `stop` (the model ended) or `length` (the budget ended it).
        latency_s: Seconds of wall time of its batch, divided by the batch's size.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    latency_s: float

    @property
    def num_tokens(self) -> int:
        """Number of generated tokens, the end token not counted."""
        return len(self.token_ids)
