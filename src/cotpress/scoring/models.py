"""The models and tokenizers that scorers use: their identities at once, their weights when first asked for."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import pick_device
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import compiled, load_model, load_tokenizer, model_identity, tokenizer_fingerprint
from cotpress.modeling.weights import TrainedWeights
from cotpress.prompts import ChatFormat
from cotpress.scoring.config import ReadBy, Template
from cotpress.scoring.reader import Reader
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.store.source import CODE, code_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(kw_only=True)
class Models:
    """Loads what the scorers of one job need, each model once; a pickled copy carries nothing that was loaded.

    Attributes:
        config: The base model: the untrained model that the reference model was made from.
        reference: Output of the reference stage; None if the base model stands for the reference model.
        distilled: Output of the distill stage; None if no scorer learns from its labels.
        key: Setting of the base model's path, for messages.
        given: A model with its tokenizer that the caller has loaded, in place of those of `config`; it reads on its
            device, in its number format.
    """

    config: ModelConfig
    reference: Artifact | None
    distilled: Artifact | None = None
    trainer: TrainerConfig
    store: ArtifactStore
    key: str = "model.path"
    given: "tuple[PreTrainedModel, PreTrainedTokenizerBase] | None" = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("config", "reference", "distilled", "trainer", "store", "key")}

    def reading_with(self, config: ModelConfig) -> "Models":
        """The same models with other settings of the base model, such as its number format; the same for equal ones."""
        if self.given is not None or config == self.config:
            return self
        return self._others.setdefault(repr(config), replace(self, config=config))

    @property
    def device(self) -> torch.device:
        """Device of the calling process; jobs are made in one process and carried out in others."""
        return pick_device(self.trainer) if self.given is None else self.given[0].device

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the base model and its tokenizer."""
        return model_identity(self.config, self.device, key=self.key)

    @property
    def tokenizer_identity(self) -> dict[str, Any]:
        """Everything that determines the tokens alone, whatever weights and number format belong to them."""
        return {"tokenizer": tokenizer_fingerprint(self.tokenizer)}

    def reading_identity(self, template: Template, *, reference: bool) -> dict[str, Any]:
        """Everything besides the condition that determines what the reference or the base model predicts for a text."""
        identity = {
            "model": self.identity,
            "reference": self.reference.key if reference and self.reference is not None else None,
            # With ratio_marker, which stands in no text that is read: without it the fingerprints of all scores, and so
            # of all students, would change.
            "chat": self.config.chat,
            "context_tokens": self.config.context_tokens,
            "models": {CODE: code_of(Models)},
        }
        if template is Template.chat:
            identity |= ChatFormat(self.tokenizer, self.config.chat).opening_identity()
        return identity

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Tokenizer of the base model and the reference model."""
        if self.given is not None:
            return self.given[1]
        return load_tokenizer(self.config, self.store, key=self.key)

    def reader(self, template: Template, tokens_per_batch: int) -> Reader:
        """Make the reader that turns traces into input for both models."""
        return Reader(self.tokenizer, self.config, template, tokens_per_batch)

    def model(self, read_by: ReadBy, *, forwards_only: bool = False) -> "PreTrainedModel":
        """Load a model, or give the one that is loaded, in eval mode; its parameters require no gradients.

        The base model stands for a missing reference model. A model that only runs forwards over whole texts may be
        compiled (`trainer.compile`).

        Raises:
            ModelError: It cannot be loaded.
            ArtifactError: The artifact of the reference model holds no model.
        """
        if self.given is not None:
            return self.given[0]
        reference = self.reference if read_by is ReadBy.reference else None
        key = (reference is not None, forwards_only and self.trainer.compile)
        if key not in self._loaded:
            if key[1]:
                model = compiled(self.model(read_by))
            else:
                config, adapter = TrainedWeights.of(reference).on(self.config) if reference else (self.config, None)
                model = load_model(
                    config,
                    self.store,
                    adapter=adapter,
                    merge_adapter=True,
                    split=True,
                    device=self.device,
                    key=self.key,
                )
                model.requires_grad_(False)
            self._loaded[key] = model
        return self._loaded[key]

    @cached_property
    def _loaded(self) -> "dict[tuple[bool, bool], PreTrainedModel]":
        return {}

    @cached_property
    def _others(self) -> "dict[str, Models]":
        return {}
