"""Settings of the scorers: one class per formula, one YAML or more per class in conf/scorer.

Which scorers LLMLingua 0.2.2 knows, as far as their settings tell; imports no model.
"""

import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from omegaconf import MISSING

from cotpress.errors import ConfigError, did_you_mean
from cotpress.records import Unit
from cotpress.settings import Amount, Count, Natural


class Condition(Enum):
    """What a model is told before it reads the thinking."""

    none = "none"
    answer = "answer"
    """The written response."""
    question = "question"
    question_answer = "question_answer"
    """Question, blank line, written response."""


class Template(Enum):
    """How condition and thinking are joined into the model's input."""

    chat = "chat"
    """The chat format that the reference model was trained in."""
    plain = "plain"
    """`bos + condition + blank line + thinking`, as in LLMLingua."""


class ReadBy(Enum):
    """Which model reads the thinking."""

    reference = "reference"
    """The reference model; with `reference=none` the base model."""
    base = "base"
    """The model that the reference model was made from, untrained."""


class Target(Enum):
    """What follows the thinking and is to be explained by it."""

    response = "response"
    """The written response."""
    answer = "answer"
    """The gold answer alone."""


class Query(Enum):
    """Where attention is looked at from."""

    answer = "answer"
    """All tokens of the written response."""
    close = "close"
    """The last token of the text that closes the thinking, e.g. `</think>`."""


class Position(Enum):
    """Which positions are kept first."""

    head = "head"
    tail = "tail"
    stride = "stride"
    """Evenly spread over the text at every ratio."""


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
        return False

    def identity(self) -> dict[str, Any]:
        """The settings that determine the scores, by name: all of them, unless a scorer knows some that cannot."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def check(self, *, has_reference: bool) -> None:
        """Refuse what a type cannot: called when the configuration is composed, before anything is trained.

        Args:
            has_reference: False if the base model stands for the reference model (`reference=none`).

        Raises:
            ConfigError: Settings contradict each other or are out of range.
        """


@dataclass(kw_only=True, slots=True)
class ReadingConfig(ScorerConfig):
    """Common to the scorers that read the thinking with a causal language model."""

    read_by: ReadBy = ReadBy.reference
    """Which model reads."""
    condition: Condition = Condition.question
    """What it is told before."""
    template: Template = Template.chat
    """Format of its input."""

    @property
    def needs_reference(self) -> bool:
        """See `ScorerConfig`."""
        return self.read_by is ReadBy.reference

    @property
    def reads_with_model(self) -> bool:
        """See `ScorerConfig`."""
        return True


@dataclass(kw_only=True, slots=True)
class TokenReadingConfig(ReadingConfig):
    """Common to those of them that give every token a value of its own."""

    pooling: Unit = Unit.token
    """Give each token the mean over its word or step."""


@dataclass(kw_only=True, slots=True)
class CtsConfig(TokenReadingConfig):
    """Conditional Token Selection (arXiv 2505.17827)."""

    condition: Condition = Condition.answer
    """What the token must become easier by."""
    baseline: Condition = Condition.none
    """What it is compared with: none or question."""

    def check(self, *, has_reference: bool) -> None:
        """The condition must tell something that the baseline does not, and the baseline must not know the answer."""
        if self.baseline not in (Condition.none, Condition.question):
            raise ConfigError(f"scorer.baseline: got '{self.baseline.value}', allowed: none, question")
        if self.condition is Condition.none:
            raise ConfigError(
                "scorer.condition: got 'none', but the score is what a condition tells beyond scorer.baseline. "
                "Allowed: answer, question, question_answer. Fix: scorer.condition=answer, or scorer=self_information"
            )
        if self.condition is self.baseline:
            raise ConfigError(
                f"scorer.condition: got '{self.condition.value}', which is also scorer.baseline: every score would "
                "be 0. Fix: scorer.condition=answer"
            )


@dataclass(kw_only=True, slots=True)
class SelfInformationConfig(TokenReadingConfig):
    """Surprise: what a language model would not have written (LLMLingua, Selective-Context)."""


@dataclass(kw_only=True, slots=True)
class EntropyConfig(TokenReadingConfig):
    """Uncertainty about the token before it is read."""


@dataclass(kw_only=True, slots=True)
class Rho1Config(TokenReadingConfig):
    """What the reference model explains better than the base model (Rho-1)."""

    @property
    def needs_reference(self) -> bool:
        """It compares both models, so always."""
        return True

    def check(self, *, has_reference: bool) -> None:
        """Both models read, so there must be two, and no choice between them."""
        if not has_reference:
            raise ConfigError(
                f"scorer={self.name} compares the reference model with the base model, but reference=none: every "
                "score would be 0. Fix: reference=lora"
            )
        if self.read_by is not ReadBy.reference:
            raise ConfigError(
                f"scorer.read_by: got '{self.read_by.value}', but this scorer compares the reference model with the "
                "base model, allowed: reference"
            )


@dataclass(kw_only=True, slots=True)
class ReferenceLikelihoodConfig(TokenReadingConfig):
    """What the reference model would have written itself."""


@dataclass(kw_only=True, slots=True)
class ReferenceWalkConfig(ReadingConfig):
    """What the reference model would have written itself, after what it has kept of the text before."""

    unit: Unit = Unit.word
    """What is kept or forgotten as one, and scored by its mean."""
    max_surprise: float = 2.0
    """A unit stays in what the model has read if its mean -log p is at most this, in nats; > 0."""

    def check(self, *, has_reference: bool) -> None:
        """The limit must be positive."""
        if not self.max_surprise > 0:
            raise ConfigError(f"scorer.max_surprise: got {self.max_surprise:g}, allowed: a number above 0, in nats")


@dataclass(kw_only=True, slots=True)
class GogiConfig(TokenReadingConfig):
    """Goal-gradient importance (arXiv 2505.08392)."""

    target: Target = Target.response
    """What the loss is about."""
    depth: float = 0.5
    """Layer whose hidden states are looked at, as a share of all layers, in (0, 1]; never the topmost one."""

    def check(self, *, has_reference: bool) -> None:
        """The depth must lie in the model."""
        if not 0 < self.depth <= 1:
            raise ConfigError(f"scorer.depth: got {self.depth}, allowed: a number in (0, 1]")


@dataclass(kw_only=True, slots=True)
class AnswerAttentionConfig(TokenReadingConfig):
    """Attention paid to the token after the thinking (CRISP, arXiv 2604.17297)."""

    query: Query = Query.answer
    """Where attention is looked at from."""
    num_layers: int = 4
    """Topmost layers that are averaged."""


@dataclass(kw_only=True, slots=True)
class StepEntropyConfig(ReadingConfig):
    """Entropy of whole steps (arXiv 2508.03346)."""


@dataclass(kw_only=True, slots=True)
class FirstTokenSurprisalConfig(ReadingConfig):
    """Surprise at the first token of a step (arXiv 2508.05988)."""


@dataclass(kw_only=True, slots=True)
class GreedyNllConfig(ReadingConfig):
    """Greedy deletion by joint likelihood of what stays and the response (arXiv 2601.03066)."""

    max_tokens: Count = 128
    """Longest thinking that is scored; the cost grows with its square in forward passes."""
    deletions_per_round: Count = 1
    """Tokens deleted before all candidates are tried again; 1 is the published algorithm."""

    def check(self, *, has_reference: bool) -> None:
        """Both numbers must be at least 1."""
        for key, value in (("max_tokens", self.max_tokens), ("deletions_per_round", self.deletions_per_round)):
            if value < 1:
                raise ConfigError(f"scorer.{key}: got {value}, allowed: a whole number >= 1")


@dataclass(kw_only=True, slots=True)
class RandomConfig(ScorerConfig):
    """Uniform random scores, stable per token."""

    seed: Natural = MISSING
    """Seed of the scores."""


@dataclass(kw_only=True, slots=True)
class PositionConfig(ScorerConfig):
    """Scores by position alone."""

    keep: Position = MISSING
    """Which positions are kept first."""


@dataclass(kw_only=True, slots=True)
class TokenskipConfig(ScorerConfig):
    """P(keep) of an LLMLingua-2-style token classifier (arXiv 2502.12067, 2403.12968)."""

    path: str = MISSING
    """Hub id or directory of the encoder; `package:NAME` for one that a Python package carries."""
    train: bool = MISSING
    """Train a keep/drop head on the distilled labels first; false when `path` is a published classifier."""
    learning_rate: Amount = 3e-4
    """Peak learning rate of the classifier training."""
    epochs: Count = 2
    """Passes over the distilled traces."""
    trained_layers: int | None = 2
    """Topmost encoder layers that are tuned with the head; null tunes all weights."""
    batch_size: int = 16
    """Chunks per training step."""
    window_tokens: int = 510
    """Longest chunk the encoder sees, in its tokens without the two special ones."""
    seed: Natural = MISSING
    """Seed of the head's initialisation and the data order."""

    @property
    def needs_labels(self) -> bool:
        """See `ScorerConfig`."""
        return self.train

    def identity(self) -> dict[str, Any]:
        """A published classifier is determined by its files (see `Plan.identity`); how one is trained says nothing."""
        if self.train:
            return ScorerConfig.identity(self)
        return {"name": self.name, "train": False, "window_tokens": self.window_tokens}


@dataclass(kw_only=True, slots=True)
class MixConfig(ScorerConfig):
    """Weighted mean of the ranks that other scorers give."""

    parts: dict[str, ScorerConfig] = field(default_factory=dict)
    """The other scorers by a name of one's own."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each part, >= 0; a part of weight 0 is left out."""

    @property
    def weighted(self) -> list[str]:
        """Names of the parts that count: those with a weight above 0."""
        return [name for name in self.parts if self.weights.get(name, 0.0) > 0]

    @property
    def needs_reference(self) -> bool:
        """True if one of the parts that count does."""
        return any(self.parts[name].needs_reference for name in self.weighted)

    @property
    def needs_labels(self) -> bool:
        """True if one of the parts that count does."""
        return any(self.parts[name].needs_labels for name in self.weighted)

    @property
    def reads_with_model(self) -> bool:
        """True if one of the parts that count does."""
        return any(self.parts[name].reads_with_model for name in self.weighted)

    def identity(self) -> dict[str, Any]:
        """What determines the parts that count, and their weights."""
        return {
            "name": self.name,
            "parts": {name: self.parts[name].identity() for name in self.weighted},
            "weights": {name: self.weights[name] for name in self.weighted},
        }

    def check(self, *, has_reference: bool) -> None:
        """Every part needs a weight and the other way round, and one weight must be above 0."""
        unknown = sorted(set(self.weights) - set(self.parts))
        if unknown:
            raise ConfigError(
                f"scorer.weights: got '{unknown[0]}', which is no part.{did_you_mean(unknown[0], self.parts)} "
                f"Fix: +scorer@scorer.parts.{unknown[0]}=SCORER, or ~scorer.weights.{unknown[0]}"
            )
        unweighted = sorted(set(self.parts) - set(self.weights))
        if unweighted:
            raise ConfigError(
                f"scorer.weights: part '{unweighted[0]}' has none. Fix: +scorer.weights.{unweighted[0]}=1"
            )
        if not all(math.isfinite(w) and w >= 0 for w in self.weights.values()) or not self.weighted:
            raise ConfigError(f"scorer.weights: got {self.weights}, allowed: finite numbers >= 0, at least one above 0")
        for name in self.weighted:
            self.parts[name].check(has_reference=has_reference)


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several shares of a scoring job, each computed by a job of its own.

    Attributes:
        number: Which one, from 1.
        total: How many there are.
    """

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that `text`, such as `2/8`, stands for.

        Raises:
            ConfigError: It is none.
        """
        number, _, total = text.partition("/")
        try:
            shard = cls(int(number), int(total))
        except ValueError:
            shard = cls(0, 0)
        if not 1 <= shard.number <= shard.total:
            raise ConfigError(f"shard: got '{text}', allowed: K/N with 1 <= K <= N, e.g. shard=1/4,2/4,3/4,4/4 with -m")
        return shard


def llmlingua_settings(config: ScorerConfig) -> CtsConfig | SelfInformationConfig:
    """The same settings, if LLMLingua 0.2.2 knows such a score (compression=llmlingua_compat).

    Raises:
        ConfigError: It does not.
    """
    problem = None
    if isinstance(config, CtsConfig):
        if config.condition is Condition.none:
            problem = "scorer.condition: got 'none', which compares the text with itself. Fix: scorer.condition=answer"
        elif config.baseline is not Condition.none:
            problem = f"scorer.baseline: got '{config.baseline.value}', but the release compares with no condition. "
            problem += "Fix: scorer.baseline=none"
    elif isinstance(config, SelfInformationConfig):
        if config.condition is not Condition.none:
            problem = f"scorer.condition: got '{config.condition.value}', but plain LLMLingua knows no condition. "
            problem += "Fix: scorer.condition=none"
    else:
        problem = f"scorer: got '{config.name}', but the release knows two scores: scorer=cts, or "
        problem += "scorer=self_information scorer.condition=none (plain LLMLingua)"
    if problem is None:
        assert isinstance(config, CtsConfig | SelfInformationConfig)
        if config.pooling is Unit.token:
            return config
        problem = (
            f"scorer.pooling: got '{config.pooling.value}', but the release scores tokens. Fix: scorer.pooling=token"
        )
    raise ConfigError(f"compression=llmlingua_compat repeats LLMLingua 0.2.2. {problem}")
