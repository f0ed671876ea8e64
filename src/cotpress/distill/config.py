"""Settings of the distill stage, which finds the valuable part of each thinking text."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from cotpress.errors import ConfigError
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.settings import Count, Rule, interval


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
    min_overlap: Annotated[float, interval("(0, 1]")] = 0.5
    """Smallest share of a step's numbers and content words that the response has (overlap only)."""


@dataclass(kw_only=True, slots=True)
class LlmDistillConfig(DistillConfig):
    """A language model copies out the words that are needed; two filters drop unfaithful copies (arXiv 2403.12968)."""

    extractor: Extractor = Extractor.llm
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Backend of the language model; choose with generation@distill.generation=server."""
    model: ModelConfig | None = None
    """Language model (backend transformers only); null is the run's model. Choose with model@distill.model=NAME."""
    show_response: bool = True
    """Show the response with the question, so that the model knows the result of the thinking."""
    chunk_words: Annotated[int, Rule(lambda number: 10 <= number <= 2000, "10 to 2000")] = 400
    """Longest piece of thinking per prompt, cut at ends of steps; a number or a symbol is a word."""
    max_new_tokens: Count = 1024
    """Budget of one extraction, in the language model's tokens."""
    drop_variation: Annotated[float, interval("[0, 1)")] = 0.05
    """Share of the traces to drop for the highest variation rate, in [0, 1)."""
    drop_gap: Annotated[float, interval("[0, 1)")] = 0.1
    """Share of the remaining traces to drop for the highest alignment gap, in [0, 1)."""
    max_variation: Annotated[float, interval("[0, 1]")] = 0.3
    """Highest variation rate to keep, in [0, 1]. Not in the paper: a share alone keeps most traces of a model that
    always rephrases."""
    max_gap: Annotated[float, interval("[0, 1]")] = 0.1
    """Highest alignment gap to keep, in [0, 1]; not in the paper."""

    def validate(self, key: str) -> None:
        """Refuse a model beside a server, which has its own."""
        if self.model is not None and isinstance(self.generation, ServerGenerationConfig):
            raise ConfigError(
                f"{key}.model: got '{self.model.name}', but the server '{self.generation.model}' extracts. "
                f"Fix: leave it out, or generation@{key}.generation=transformers"
            )
