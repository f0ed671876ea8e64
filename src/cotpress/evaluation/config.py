"""Settings of the evaluation protocol."""

from dataclasses import dataclass, field
from enum import Enum


class Baseline(Enum):
    """Systems that are evaluated beside the scorer's student."""

    base = "base"
    """The untuned model."""
    original = "original"
    """A student of the same recipe, trained on the uncompressed traces."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """Config group `evaluation`."""

    baselines: list[Baseline] = field(default_factory=lambda: [Baseline.original])
    """Rows of the table beside the scorer's own."""
    confidence: float = 0.95
    """Level of the intervals."""
