"""Settings of the distill stage, which finds the valuable part of a thinking text."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from cotpress.errors import ConfigError
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.settings import Count, Rule, interval


class Extractor(Enum):
    """Ways to find the valuable part."""

    labels = "labels"
    """The labels of the built-in generator."""
    overlap = "overlap"
    """Thinking steps whose content words and numbers reappear in the response."""
    llm = "llm"
    """A language model copies the needed parts (choose it with distill=llm)."""


@dataclass(kw_only=True, slots=True)
class DistillConfig:
    """Config group `distill`."""

    extractor: Extractor = Extractor.labels
    """Way to find the valuable part."""
    min_overlap: Annotated[float, interval("(0, 1]")] = 0.5
    """Smallest share of a step's numbers and content words that reappear in the response (overlap only)."""


@dataclass(kw_only=True, slots=True)
class LlmDistillConfig(DistillConfig):
    """Extraction by a language model, with two filters against text that it did not copy (arXiv 2403.12968)."""

    extractor: Extractor = Extractor.llm
    """Way to find the valuable part."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Backend that runs the language model; choose with generation@distill.generation=server."""
    model: ModelConfig | None = None
    """The language model (backend transformers only); null is `model`. Choose with model@distill.model=NAME."""
    show_response: bool = True
    """Show the response with the question, so that the language model knows the result of the thinking."""
    chunk_words: Annotated[int, Rule(lambda number: 10 <= number <= 2000, "10 to 2000")] = 400
    """Words of thinking per request, 10 to 2000, cut at ends of steps; a number or a symbol is a word."""
    max_new_tokens: Count = 1024
    """Token budget of one extraction, in tokens of the language model."""
    drop_variation: Annotated[float, interval("[0, 1)")] = 0.05
    """Share of the traces dropped for the highest variation rates, in [0, 1)."""
    drop_gap: Annotated[float, interval("[0, 1)")] = 0.1
    """Share of the remaining traces dropped for the highest alignment gaps, in [0, 1)."""
    max_variation: Annotated[float, interval("[0, 1]")] = 0.3
    """Highest allowed variation rate, in [0, 1]; not in the paper, whose share passes a model that always rephrases."""
    max_gap: Annotated[float, interval("[0, 1]")] = 0.1
    """Highest allowed alignment gap, in [0, 1]; not in the paper."""

    def validate(self, key: str) -> None:
        """Refuse a model beside a server, which has its own."""
        if self.model is not None and isinstance(self.generation, ServerGenerationConfig):
            raise ConfigError(
                f"{key}.model: got '{self.model.name}', but the server '{self.generation.model}' extracts. "
                f"Fix: leave it out, or generation@{key}.generation=transformers"
            )
