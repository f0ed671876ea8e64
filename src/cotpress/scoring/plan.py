"""Which scorer a configuration means: what determines its scores, and how to build it.

Nothing is loaded until `Plan.make` is called, so scores that are already there cost no model.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.errors import ConfigError
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import compiled, load_model, load_tokenizer, model_identity, tokenizer_fingerprint
from cotpress.modeling.weights import TrainedWeights
from cotpress.prompts import ChatFormat
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
    Template,
    TokenskipConfig,
)
from cotpress.store.artifacts import Artifact, ArtifactStore

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
    Rho1Config: "rho1_excess:Rho1Scorer",
}
"""Scorers that read with a model, by their settings: `module:class` with `(config, reader, model)`; Rho-1 takes two."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A scorer that is not built yet.

    Attributes:
        identity: What determines its scores besides its settings and the traces.
        make: Loads what it needs and builds it; can be pickled, for the processes of other devices.
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
    """The plan of one scorer; arguments as `cotpress.scoring.job.scoring_job`.

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

    @property
    def device(self) -> torch.device:
        """That of the process that asks: a plan is made in one and carried out in others."""
        return pick_device(self.trainer)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the base model and its tokenizer."""
        return model_identity(self.config, self.store, self.device)

    @property
    def tokenizer_identity(self) -> dict[str, Any]:
        """What determines the tokens alone, whatever weights and number format belong to them."""
        # Of a copy of its own: a plan travels to other processes, and what is loaded here would go with it.
        return {"tokenizer": tokenizer_fingerprint(load_tokenizer(self.config, self.store))}

    @property
    def reference_key(self) -> str | None:
        """The artifact of the reference model, or None if the base model stands for it."""
        return self._reference.key if self._reference is not None else None

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        return load_tokenizer(self.config, self.store)

    @cached_property
    def base(self) -> "PreTrainedModel":
        return load_model(self.config, self.store, split=True, device=self.device)

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
            from cotpress.scoring.scorers.random import RandomScorer

            return Plan(models.tokenizer_identity, partial(_without_model, RandomScorer, config, models))
        case PositionConfig():
            from cotpress.scoring.scorers.position import PositionScorer

            return Plan(models.tokenizer_identity, partial(_without_model, PositionScorer, config, models))
        case TokenskipConfig():
            from cotpress.scoring.scorers.classifier_training import classifier_identity

            identity = {"classifier": classifier_identity(config, distilled)}
            return Plan(identity, partial(_tokenskip, config, distilled, models))
        case MixConfig():
            plans = {name: _plan(config.parts[name], distilled, models) for name in config.weighted}
            identity = {"model": models.identity, "parts": {name: plan.identity for name, plan in plans.items()}}
            return Plan(
                identity,
                partial(_mix, config, plans, models),
                max((plan.window_context for plan in plans.values() if plan.window_context is not None), default=None),
            )
    raise ConfigError(f"scorer: no scorer for {type(config).__name__}")


def _without_model(kind: Callable[[Any, "PreTrainedTokenizerBase"], Scorer], config: Any, models: _Models) -> Scorer:
    return kind(config, models.tokenizer)


def _tokenskip(config: TokenskipConfig, distilled: Artifact | None, models: _Models) -> Scorer:
    from cotpress.scoring.scorers.classifier_training import build_classifier
    from cotpress.scoring.scorers.tokenskip import TokenskipScorer

    classifier = build_classifier(config, distilled, models.store, models.device)
    return TokenskipScorer(config, classifier, models.trainer.tokens_per_batch)


def _mix(config: MixConfig, plans: Mapping[str, Plan], models: _Models) -> Scorer:
    from cotpress.scoring.scorers.mix import MixScorer

    return MixScorer(config, {name: plan.make() for name, plan in plans.items()}, models.tokenizer)


def _reading(config: ReadingConfig, models: _Models) -> Plan:
    identity = {
        "model": models.identity,
        "reference": models.reference_key if config.needs_reference else None,
        # With ratio_marker, which stands in no text that is read: every model has its own, so without it whatever was
        # scored before would be scored again, and every student of it trained again.
        "chat": models.config.chat,
        "context_tokens": models.config.context_tokens,
    }
    if config.template is Template.chat:
        identity |= ChatFormat(models.tokenizer, models.config.chat).opening_identity()
    kind = _reading_class(config)
    window_context = models.config.context_tokens if kind.reads_windows else None
    return Plan(identity, partial(_reading_scorer, config, models), window_context)


def _reading_class(config: ReadingConfig) -> Any:
    module, _, name = _READING[type(config)].partition(":")
    return getattr(importlib.import_module(f"cotpress.scoring.scorers.{module}"), name)


def _reading_scorer(config: ReadingConfig, models: _Models) -> Scorer:
    from cotpress.scoring.reader import Reader

    trainer = models.trainer
    # The walk keeps keys and values of all its texts, as generation does, and takes many small steps.
    budget = trainer.generation_tokens if isinstance(config, ReferenceWalkConfig) else trainer.tokens_per_batch
    reader = Reader(models.tokenizer, models.config, config.template, budget)
    kind = _reading_class(config)
    if isinstance(config, Rho1Config):
        scorer: Scorer = kind(config, reader, models.fast_reference, models.fast_base)
    else:
        model = f"{'fast_' if kind.reads_windows else ''}{config.read_by.value}"
        scorer = kind(config, reader, getattr(models, model))
    return scorer


def reference_model(
    base: ModelConfig, reference: Artifact, store: ArtifactStore, device: torch.device
) -> "PreTrainedModel":
    """The reference model in eval mode, its adapter merged.

    Raises:
        ModelError: It cannot be loaded.
        ArtifactError: The artifact holds no model.
    """
    model, adapter = TrainedWeights.of(reference).on(base)
    return load_model(model, store, adapter=adapter, merge_adapter=True, split=True, device=device)
