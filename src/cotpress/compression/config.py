"""Settings of the compression: which tokens stay, given their scores."""

from dataclasses import dataclass, field
from enum import Enum


class Protection(Enum):
    """Tokens that are kept whatever their score."""

    none = "none"
    digits = "digits"
    """Every token that holds a digit."""


class ExportFormat(Enum):
    """How compressed training data is written for use elsewhere."""

    parquet = "parquet"
    """The compressed rows as they are, keep masks included."""
    trl = "trl"
    """One JSON object per line with `prompt` and `completion` messages (TRL, conversational)."""
    openai = "openai"
    """One JSON object per line with `messages`."""


@dataclass(kw_only=True, slots=True)
class CompressionConfig:
    """Config group `compression`."""

    mixed_ratios: list[float] = field(default_factory=list)
    """Empty: every trace is cut to `ratio` and no marker is shown (CTS). Otherwise each trace draws one of
    these ratios, which a control marker in the prompt announces; `ratio` is then asked at evaluation (TokenSkip)."""
    protection: Protection = Protection.none
    """Tokens that are kept whatever their score."""
