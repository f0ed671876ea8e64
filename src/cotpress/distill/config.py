"""Settings of the distill stage: which part of a thinking text is valuable."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from cotpress.errors import ConfigError
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.settings import Count, Rule, interval


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
    min_overlap: Annotated[float, interval("(0, 1]")] = 0.5
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
    chunk_words: Annotated[int, Rule(lambda number: 10 <= number <= 2000, "10 to 2000")] = 400
    """Longest piece of thinking that is extracted at once, cut at ends of steps; a number or a symbol is a word."""
    max_new_tokens: Count = 1024
    """Budget of one extraction, in the language model's tokens."""
    drop_variation: Annotated[float, interval("[0, 1)")] = 0.05
    """Share of the traces that is dropped for the highest variation rate, in [0, 1)."""
    drop_gap: Annotated[float, interval("[0, 1)")] = 0.1
    """Share of the remaining traces that is dropped for the highest alignment gap, in [0, 1)."""
    max_variation: Annotated[float, interval("[0, 1]")] = 0.3
    """Highest variation rate that is ever kept, in [0, 1]; not in the paper: who rephrases always passes any share."""
    max_gap: Annotated[float, interval("[0, 1]")] = 0.1
    """Highest alignment gap that is ever kept, in [0, 1]; not in the paper either."""

    def validate(self, key: str) -> None:
        """Refuse a model beside a server, which has its own."""
        if self.model is not None and isinstance(self.generation, ServerGenerationConfig):
            raise ConfigError(
                f"{key}.model: got '{self.model.name}', but the server '{self.generation.model}' extracts. "
                f"Fix: leave it out, or generation@{key}.generation=transformers"
            )
