"""Which scorer a configuration means: what determines its scores, and how to build it.

Nothing is loaded until `Plan.make` is called, so scores that are already there cost no model.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from cotpress.artifacts import Artifact, ArtifactStore
from cotpress.errors import ArtifactError, ConfigError
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity, pick_device
from cotpress.modeling_config import ModelConfig, ModelSource
from cotpress.scoring.base import Scorer
from cotpress.scoring.config import (
    AnswerAttentionConfig,
    CtsConfig,
    GogiConfig,
    GreedyNllConfig,
    MixConfig,
    PositionConfig,
    RandomConfig,
    ReadBy,
    ReadingConfig,
    ReferenceLikelihoodConfig,
    ReferenceWalkConfig,
    Rho1Config,
    ScorerConfig,
    SelfInformationConfig,
    TokenskipConfig,
)
from cotpress.trainer_config import TrainerConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_READING = {
    CtsConfig: "cts:CtsScorer",
    SelfInformationConfig: "self_information:SelfInformationScorer",
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
    """

    identity: dict[str, Any]
    make: Callable[[], Scorer]


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
    device = pick_device(trainer)
    match config:
        case ReadingConfig():
            return _reading(config, reference, base, trainer, store, device)
        case RandomConfig():
            from cotpress.scoring.random import RandomScorer

            identity = {"model": model_identity(base, store, device)}
            return Plan(identity, lambda: RandomScorer(config, load_tokenizer(base, store)))
        case PositionConfig():
            from cotpress.scoring.position import PositionScorer

            identity = {"model": model_identity(base, store, device)}
            return Plan(identity, lambda: PositionScorer(config, load_tokenizer(base, store)))
        case TokenskipConfig():
            from cotpress.scoring.classifier_training import build_classifier, classifier_identity
            from cotpress.scoring.tokenskip import TokenskipScorer

            return Plan(
                {"classifier": classifier_identity(config, distilled)},
                lambda: TokenskipScorer(
                    config, build_classifier(config, distilled, store, device), trainer.tokens_per_batch
                ),
            )
        case MixConfig():
            from cotpress.scoring.mix import MixScorer

            plans = {
                part: plan_scorer(settings, distilled, reference, base, trainer, store)
                for part, settings in config.parts.items()
            }
            return Plan(
                {
                    "model": model_identity(base, store, device),
                    "parts": {p: plan.identity for p, plan in plans.items()},
                },
                lambda: MixScorer(config, {p: plan.make() for p, plan in plans.items()}, load_tokenizer(base, store)),
            )
    raise ConfigError(f"scorer: no scorer for {type(config).__name__}")


def _reading(
    config: ReadingConfig,
    reference: Artifact | None,
    base: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    device: torch.device,
) -> Plan:
    from cotpress.scoring.reader import Reader

    identity = {
        "model": model_identity(base, store, device),
        "reference": reference.key if reference is not None and config.needs_reference else None,
        "chat": base.chat,
        "context_tokens": base.context_tokens,
    }

    def reader() -> Reader:
        return Reader(load_tokenizer(base, store), base, config.template, trainer.tokens_per_batch)

    def trained() -> "PreTrainedModel":
        return reference_model(base, reference, store, device)

    def untrained() -> "PreTrainedModel":
        return load_model(base, store, device=device)

    if isinstance(config, Rho1Config):
        from cotpress.scoring.rho1_excess import Rho1Scorer

        if reference is None:
            raise ConfigError(
                f"scorer={config.name} compares the reference model with the base model, but reference=none: every "
                "score would be 0. Fix: reference=lora"
            )
        return Plan(identity, lambda: Rho1Scorer(config, reader(), trained(), untrained()))
    module, _, name = _READING[type(config)].partition(":")
    scorer = getattr(importlib.import_module(f"cotpress.scoring.{module}"), name)
    model = trained if config.read_by is ReadBy.reference else untrained
    return Plan(identity, lambda: scorer(config, reader(), model()))


def reference_model(
    base: ModelConfig, reference: Artifact | None, store: ArtifactStore, device: torch.device
) -> "PreTrainedModel":
    """The reference model in eval mode, adapter merged; the base model itself where there is no reference.

    Raises:
        ModelError: It cannot be loaded.
        ArtifactError: The artifact holds no model.
    """
    if reference is None:
        return load_model(base, store, device=device)
    full, adapter = reference.path / "model", reference.path / "adapter"
    if full.is_dir():
        trained = replace(base, source=ModelSource.hub, path=str(full), revision=None)
        return load_model(trained, store, device=device)
    if adapter.is_dir():
        return load_model(base, store, adapter=adapter, merge_adapter=True, device=device)
    raise ArtifactError(f"artifact {reference.key} holds neither model/ nor adapter/; got {sorted(reference.manifest)}")
