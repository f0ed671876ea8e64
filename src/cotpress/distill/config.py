"""Settings of the distill stage, which finds the valuable part of each thinking text."""

from dataclasses import dataclass, field
from enum import Enum

from cotpress.generation.config import GenerationConfig
from cotpress.modeling.config import ModelConfig


class Extractor(Enum):
    """Method that finds the valuable part."""

    labels = "labels"
    """Labels of the built-in generator."""
    overlap = "overlap"
    """Thinking steps whose content words and numbers reappear in the written response."""
    llm = "llm"
    """A language model copies out the words that are needed (choose it with distill=llm)."""


@dataclass(kw_only=True, slots=True)
class DistillConfig:
    """Config group `distill`."""

    extractor: Extractor = Extractor.labels
    """Method that finds the valuable part."""
    min_overlap: float = 0.5
    """Smallest share of a step's numbers and content words that the response has (overlap only)."""


@dataclass(kw_only=True, slots=True)
class LlmDistillConfig(DistillConfig):
    """A language model copies out the words that are needed; two filters drop unfaithful copies (arXiv 2403.12968)."""

    extractor: Extractor = Extractor.llm
    """Method that finds the valuable part."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Backend of the language model; choose with generation@distill.generation=server."""
    model: ModelConfig | None = None
    """Language model (backend transformers only); null is the run's model. Choose with model@distill.model=NAME."""
    show_response: bool = True
    """Show the response with the question, so that the model knows the result of the thinking."""
    chunk_words: int = 400
    """Longest piece of thinking per prompt, cut at ends of steps; a number or a symbol is a word."""
    max_new_tokens: int = 1024
    """Budget of one extraction, in the language model's tokens."""
    drop_variation: float = 0.05
    """Share of the traces to drop for the highest variation rate, in [0, 1)."""
    drop_gap: float = 0.1
    """Share of the remaining traces to drop for the highest alignment gap, in [0, 1)."""
    max_variation: float = 0.3
    """Highest variation rate to keep, in [0, 1]. Not in the paper: a share alone keeps most traces of a model that
    always rephrases."""
    max_gap: float = 0.1
    """Highest alignment gap to keep, in [0, 1]; not in the paper."""
