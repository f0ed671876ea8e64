"""Settings that several scorers share; those of one scorer stand beside it in scorers/. Imports no model."""

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from omegaconf import MISSING

from cotpress.modeling.config import Dtype
from cotpress.records import Unit


class Condition(Enum):
    """Text that a model reads before the thinking."""

    none = "none"
    answer = "answer"
    """The written response."""
    question = "question"
    question_answer = "question_answer"
    """Question, blank line, written response."""


class Template(Enum):
    """Format that joins condition and thinking into the model's input."""

    chat = "chat"
    """The turns that the reference model was trained on: a prompt with the condition in the place of the question (an
    empty place without condition), the opening of the thinking, the thinking, its closing, the response, end of turn.
    With condition=question it is the training sequence to the token, with the whole thinking for its valuable part."""
    plain = "plain"
    """bos, the condition and a blank line if there is one, the thinking, a blank line, the response."""


class ReadBy(Enum):
    """Model that reads the thinking."""

    reference = "reference"
    """The reference model; with `reference=none` the base model."""
    base = "base"
    """The model that the reference model was made from, untrained."""


class Target(Enum):
    """Text after the thinking that is explained by it."""

    response = "response"
    """The written response."""
    answer = "answer"
    """The gold answer alone."""


@dataclass(kw_only=True, slots=True)
class ScorerConfig:
    """Common to all scorers (config group `scorer`)."""

    name: str = MISSING
    """Name of the scorer, shown in tables."""

    @property
    def needs_reference(self) -> bool:
        """True if the scorer reads with the reference model."""
        return False

    @property
    def needs_labels(self) -> bool:
        """True if the scorer is trained on the distilled labels."""
        return False

    @property
    def reads_with_model(self) -> bool:
        """True if a causal language model reads: the reference model, or the one that it is made from."""
        return isinstance(self, ReadingConfig)

    def identity(self) -> dict[str, Any]:
        """The settings that determine the scores, by name: all of them, unless a scorer leaves some out."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def check(self, *, has_reference: bool) -> None:
        """Refuse settings that their types allow; called when the configuration is composed.

        Without a reference model (`reference=none`) the base model takes its place.

        Raises:
            ConfigError: Settings contradict each other or are out of range.
        """


@dataclass(kw_only=True, slots=True)
class ReadingConfig(ScorerConfig):
    """Common to the scorers that read the thinking with a causal language model."""

    read_by: ReadBy = ReadBy.reference
    """Model that reads."""
    condition: Condition = Condition.question
    """Text before the thinking."""
    template: Template = Template.chat
    """Format of its input."""
    dtype: Dtype = Dtype.auto
    """Number format of the model that reads; `auto` is float32 for scores that are differences, else `model.dtype`."""

    def identity(self) -> dict[str, Any]:
        """See `ScorerConfig`; the number format stands in the identity of the model."""
        return {name: value for name, value in ScorerConfig.identity(self).items() if name != "dtype"}

    @property
    def needs_reference(self) -> bool:
        """See `ScorerConfig`."""
        return self.read_by is ReadBy.reference


@dataclass(kw_only=True, slots=True)
class TokenReadingConfig(ReadingConfig):
    """Common to those of them that score every token by itself."""

    pooling: Unit = Unit.token
    """Give each token the mean over its unit; segments are those of the default openings."""
