"""Settings of the distill stage: which part of a thinking text is valuable."""

from dataclasses import dataclass
from enum import Enum


class Extractor(Enum):
    """How the valuable part is found."""

    labels = "labels"
    """The built-in generator's own labels."""
    overlap = "overlap"
    """Thinking steps whose content words and numbers reappear in the written response."""


@dataclass(kw_only=True, slots=True)
class DistillConfig:
    """Config group `distill`."""

    extractor: Extractor = Extractor.labels
    """How the valuable part is found."""
    min_overlap: float = 0.5
    """Smallest share of a step's numbers and content words found in the response (overlap only)."""
