"""Settings of the distill stage: which part of a thinking text is valuable."""

from dataclasses import dataclass, field
from enum import Enum

from cotpress.generation.config import GenerationConfig
from cotpress.modeling.config import ModelConfig


class Extractor(Enum):
    """How the valuable part is found."""

    labels = "labels"
    """The built-in generator's own labels."""
    overlap = "overlap"
    """Thinking steps whose content words and numbers reappear in the written response."""
    llm = "llm"
    """A language model copies out what is needed (choose it with distill=llm)."""


@dataclass(kw_only=True, slots=True)
class DistillConfig:
    """Config group `distill`."""

    extractor: Extractor = Extractor.labels
    """How the valuable part is found."""
    min_overlap: float = 0.5
    """Smallest share of a step's numbers and content words found in the response (overlap only)."""


@dataclass(kw_only=True, slots=True)
class LlmDistillConfig(DistillConfig):
    """A language model copies out what is needed; two filters drop what it did not copy (arXiv 2403.12968)."""

    extractor: Extractor = Extractor.llm
    """How the valuable part is found."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Which backend runs the language model; choose with generation@distill.generation=server."""
    model: ModelConfig | None = None
    """The language model (backend transformers only); null is the run's. Choose with model@distill.model=NAME."""
    show_response: bool = True
    """Show the written response with the question, so that the model knows what the thinking has to lead to."""
    chunk_words: int = 400
    """Longest piece of thinking that is extracted at once, cut at ends of steps; a number or a symbol is a word."""
    max_new_tokens: int = 1024
    """Budget of one extraction, in the language model's tokens."""
    drop_variation: float = 0.05
    """Share of the traces that is dropped for the highest variation rate, in [0, 1)."""
    drop_gap: float = 0.1
    """Share of the remaining traces that is dropped for the highest alignment gap, in [0, 1)."""
    max_variation: float = 0.3
    """Highest variation rate that is ever kept, in [0, 1]; not in the paper: who rephrases always passes any share."""
    max_gap: float = 0.1
    """Highest alignment gap that is ever kept, in [0, 1]; not in the paper either."""
