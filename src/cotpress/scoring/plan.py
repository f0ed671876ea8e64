"""Which scorer a configuration means: what determines its scores, and how to build it.

Nothing is loaded until `Plan.make` is called, so scores that are already there cost no model.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from cotpress.artifacts import Artifact, ArtifactStore
from cotpress.errors import ArtifactError, ConfigError
from cotpress.modeling.loading import compiled, load_model, load_tokenizer, model_identity, pick_device
from cotpress.modeling_config import ModelConfig, ModelSource
from cotpress.scoring.base import Scorer
from cotpress.scoring.config import (
    AnswerAttentionConfig,
    CtsConfig,
    EntropyConfig,
    FirstTokenSurprisalConfig,
    GogiConfig,
    GreedyNllConfig,
    MixConfig,
    PositionConfig,
    RandomConfig,
    ReadingConfig,
    ReferenceLikelihoodConfig,
    ReferenceWalkConfig,
    Rho1Config,
    ScorerConfig,
    SelfInformationConfig,
    StepEntropyConfig,
    TokenskipConfig,
)
from cotpress.trainer_config import TrainerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_READING = {
    CtsConfig: "cts:CtsScorer",
    SelfInformationConfig: "self_information:SelfInformationScorer",
    EntropyConfig: "entropy:EntropyScorer",
    StepEntropyConfig: "step_entropy:StepEntropyScorer",
    FirstTokenSurprisalConfig: "first_token_surprisal:FirstTokenSurprisalScorer",
    ReferenceLikelihoodConfig: "reference_likelihood:ReferenceLikelihoodScorer",
    ReferenceWalkConfig: "reference_walk:ReferenceWalkScorer",
    GogiConfig: "gogi:GogiScorer",
    AnswerAttentionConfig: "answer_attention:AnswerAttentionScorer",
    GreedyNllConfig: "greedy_nll:GreedyNllScorer",
}
"""Scorers that read with one model, by their settings: `module:class` with `(config, reader, model)`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A scorer that is not built yet.

    Attributes:
        identity: What determines its scores besides its settings and the traces.
        make: Loads what it needs and builds it.
        window_context: Context of the model in tokens if traces over it are read in windows; None if no trace is.
    """

    identity: dict[str, Any]
    make: Callable[[], Scorer]
    window_context: int | None = None


def plan_scorer(
    config: ScorerConfig,
    distilled: Artifact | None,
    reference: Artifact | None,
    base: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Plan:
    """The plan of one scorer; arguments as `cotpress.scoring.stage.score`.

    Raises:
        ConfigError: The scorer cannot work with what it is given.
    """
    config.check(has_reference=reference is not None)
    return _plan(config, distilled, _Models(base, reference, trainer, store))


class _Models:
    """What the scorers of one plan read with, each loaded once, however many parts of a mix ask for it."""

    def __init__(
        self, config: ModelConfig, reference: Artifact | None, trainer: TrainerConfig, store: ArtifactStore
    ) -> None:
        self.config, self.trainer, self.store = config, trainer, store
        self._reference = reference
        self.device = pick_device(trainer)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the base model and its tokenizer."""
        return model_identity(self.config, self.store, self.device)

    @property
    def reference_key(self) -> str | None:
        """The artifact of the reference model, or None if the base model stands for it."""
        return self._reference.key if self._reference is not None else None

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return load_tokenizer(self.config, self.store)

    @cached_property
    def base(self) -> "PreTrainedModel":
        return load_model(self.config, self.store, device=self.device)

    @cached_property
    def reference(self) -> "PreTrainedModel":
        if self._reference is None:
            return self.base
        return reference_model(self.config, self._reference, self.store, self.device)

    @cached_property
    def fast_base(self) -> "PreTrainedModel":
        """The base model for scorers that only run it forwards over whole texts: compiled if that was asked for."""
        return compiled(self.base) if self.trainer.compile else self.base

    @cached_property
    def fast_reference(self) -> "PreTrainedModel":
        """The reference model for the same scorers."""
        if self._reference is None:
            return self.fast_base
        return compiled(self.reference) if self.trainer.compile else self.reference


def _plan(config: ScorerConfig, distilled: Artifact | None, models: _Models) -> Plan:
    match config:
        case ReadingConfig():
            return _reading(config, models)
        case RandomConfig():
            from cotpress.scoring.random import RandomScorer

            return Plan({"model": models.identity}, lambda: RandomScorer(config, models.tokenizer))
        case PositionConfig():
            from cotpress.scoring.position import PositionScorer

            return Plan({"model": models.identity}, lambda: PositionScorer(config, models.tokenizer))
        case TokenskipConfig():
            return _tokenskip(config, distilled, models)
        case MixConfig():
            from cotpress.scoring.mix import MixScorer

            plans = {name: _plan(config.parts[name], distilled, models) for name in config.weighted}
            identity = {"model": models.identity, "parts": {name: plan.identity for name, plan in plans.items()}}
            return Plan(
                identity,
                lambda: MixScorer(config, {n: plan.make() for n, plan in plans.items()}, models.tokenizer),
                max((plan.window_context for plan in plans.values() if plan.window_context is not None), default=None),
            )
    raise ConfigError(f"scorer: no scorer for {type(config).__name__}")


def _tokenskip(config: TokenskipConfig, distilled: Artifact | None, models: _Models) -> Plan:
    from cotpress.scoring.classifier_training import build_classifier, classifier_identity
    from cotpress.scoring.tokenskip import TokenskipScorer

    def make() -> Scorer:
        classifier = build_classifier(config, distilled, models.store, models.device)
        return TokenskipScorer(config, classifier, models.trainer.tokens_per_batch)

    return Plan({"classifier": classifier_identity(config, distilled)}, make)


def _reading(config: ReadingConfig, models: _Models) -> Plan:
    from cotpress.scoring.reader import Reader

    identity = {
        "model": models.identity,
        "reference": models.reference_key if config.needs_reference else None,
        "chat": models.config.chat,
        "context_tokens": models.config.context_tokens,
    }

    trainer = models.trainer
    # The walk keeps keys and values of all its texts, as generation does, and takes many small steps.
    budget = trainer.generation_tokens if isinstance(config, ReferenceWalkConfig) else trainer.tokens_per_batch

    def reader() -> Reader:
        return Reader(models.tokenizer, models.config, config.template, budget)

    if isinstance(config, Rho1Config):
        from cotpress.scoring.rho1_excess import Rho1Scorer

        return Plan(
            identity,
            lambda: Rho1Scorer(config, reader(), models.fast_reference, models.fast_base),
            models.config.context_tokens,
        )
    module, _, name = _READING[type(config)].partition(":")
    scorer = getattr(importlib.import_module(f"cotpress.scoring.{module}"), name)
    model = f"{'fast_' if scorer.reads_windows else ''}{config.read_by.value}"
    return Plan(
        identity,
        lambda: scorer(config, reader(), getattr(models, model)),
        models.config.context_tokens if scorer.reads_windows else None,
    )


def reference_model(
    base: ModelConfig, reference: Artifact, store: ArtifactStore, device: torch.device
) -> "PreTrainedModel":
    """The reference model in eval mode, its adapter merged.

    Raises:
        ModelError: It cannot be loaded.
        ArtifactError: The artifact holds no model.
    """
    full, adapter = reference.path / "model", reference.path / "adapter"
    if full.is_dir():
        trained = replace(base, source=ModelSource.hub, path=str(full), revision=None)
        return load_model(trained, store, device=device)
    if adapter.is_dir():
        return load_model(base, store, adapter=adapter, merge_adapter=True, device=device)
    held = sorted(reference.manifest["files"])
    raise ArtifactError(f"artifact {reference.key} holds neither model/ nor adapter/; it holds {held}")
