"""Settings of the scorers: one class per scorer, one YAML per class in conf/scorer."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from omegaconf import MISSING


class Condition(Enum):
    """What the reference model is told before it reads the thinking."""

    answer = "answer"
    """The written response."""
    question = "question"
    question_answer = "question_answer"


class Template(Enum):
    """How condition and thinking are joined into the reference model's input."""

    chat = "chat"
    """The chat format that the reference model was trained in."""
    plain = "plain"
    """`bos + condition + blank line + thinking`, as in LLMLingua."""


@dataclass(kw_only=True, slots=True)
class ScorerConfig:
    """Common to all scorers (config group `scorer`)."""

    needs_reference: ClassVar[bool] = False
    """True if the scorer reads with the reference model."""
    name: str = MISSING
    """Name of the scorer, shown in tables."""


@dataclass(kw_only=True, slots=True)
class CtsConfig(ScorerConfig):
    """Conditional Token Selection (arXiv 2505.17827)."""

    needs_reference: ClassVar[bool] = True
    condition: Condition = Condition.answer
    """What the token must become easier by."""
    template: Template = Template.chat
    """Input format of the reference model."""


@dataclass(kw_only=True, slots=True)
class RandomConfig(ScorerConfig):
    """Uniform random scores, stable per token."""

    seed: int = MISSING
    """Seed of the scores."""


@dataclass(kw_only=True, slots=True)
class TokenskipConfig(ScorerConfig):
    """P(keep) of an LLMLingua-2-style token classifier (arXiv 2502.12067, 2403.12968)."""

    path: str = MISSING
    """Hub id or directory of the encoder; `package:NAME` for one that a Python package carries."""
    train: bool = MISSING
    """Train a keep/drop head on the distilled labels first; false when `path` is a published classifier."""
    learning_rate: float = 3e-4
    """Peak learning rate of the classifier training."""
    epochs: int = 2
    """Passes over the distilled traces."""
    trained_layers: int | None = 2
    """Topmost encoder layers that are tuned with the head; null tunes all weights."""
    batch_size: int = 16
    """Chunks per training step."""
    window_tokens: int = 510
    """Longest chunk the encoder sees, in its tokens without the two special ones."""
    seed: int = MISSING
    """Seed of the head's initialisation and the data order."""
