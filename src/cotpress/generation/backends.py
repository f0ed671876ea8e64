"""From settings to a backend: the one place that knows all of them."""

import gc
from typing import Any, Protocol

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.errors import ConfigError
from cotpress.generation.base import Backend, Sampling
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig, TransformersGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity
from cotpress.modeling.sources import source_identity
from cotpress.store.artifacts import ArtifactStore, fingerprint


class OpenBackend(Protocol):
    """What opens a backend: `open_backend`, or a `KeptBackend`."""

    def __call__(
        self,
        config: GenerationConfig,
        model: ModelConfig,
        trainer: TrainerConfig,
        store: ArtifactStore,
        *,
        adapter: str | None = None,
    ) -> Backend:
        """See `open_backend`."""


def open_backend(
    config: GenerationConfig,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    *,
    adapter: str | None = None,
) -> Backend:
    """The backend that is asked for, ready to write.

    Args:
        config: Which backend, and its settings.
        model: The model to load; a server has its own.
        trainer: Hardware.
        store: Where converted and generated models are kept.
        adapter: Directory or hub id of a PEFT adapter to put on the model; a server is told to load it.

    Raises:
        ConfigError: A value is out of range, or the key is not in the environment.
        ModelError: The model cannot be loaded.
    """
    match config:
        case ServerGenerationConfig():
            from cotpress.generation.server import ServerBackend

            return ServerBackend(config, adapter)
        case TransformersGenerationConfig():
            from cotpress.generation.local import TransformersBackend

            return TransformersBackend(
                load_model(model, store, adapter=adapter, merge_adapter=True, device=pick_device(trainer)),
                load_tokenizer(model, store),
                context_tokens=model.context_tokens,
                generation_tokens=trainer.generation_tokens,
                packed=config.packed,
            )
    raise ConfigError(f"generation: no backend for {type(config).__name__}. Allowed: transformers, server")


class KeptBackend:
    """Opens backends and keeps the last one while the same weights are asked for, so that a sweep loads them once.

    At most one model is held: it is let go of before another is loaded.
    """

    def __init__(self) -> None:
        self._key = ""
        self._backend: Backend | None = None

    def __call__(
        self,
        config: GenerationConfig,
        model: ModelConfig,
        trainer: TrainerConfig,
        store: ArtifactStore,
        *,
        adapter: str | None = None,
    ) -> Backend:
        """See `open_backend`."""
        weights = generation_identity(config, model, trainer, store, adapter=adapter)["model"]
        key = fingerprint(
            {"weights": weights, "attention": model.attention, "config": config, "trainer": trainer, "adapter": adapter}
        )
        if self._backend is None or key != self._key:
            self.release()
            self._backend, self._key = open_backend(config, model, trainer, store, adapter=adapter), key
        return self._backend

    def release(self) -> None:
        """Let go of the model."""
        self._backend = None
        gc.collect()  # a model's modules refer to each other


def generation_identity(
    config: GenerationConfig,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    *,
    adapter: str | None = None,
) -> dict[str, Any]:
    """What determines the texts besides the prompts and the budget: model and sampling, never address, key or speed."""
    if isinstance(config, ServerGenerationConfig):
        writer: dict[str, Any] = {"served": config.model}
    else:
        writer = {**model_identity(model, store, pick_device(trainer)), "context_tokens": model.context_tokens}
    if adapter is not None:
        writer["adapter"] = source_identity(adapter, key="adapter")
    return {"model": writer, "sampling": sampling_of(config)}


def sampling_of(config: GenerationConfig) -> Sampling:
    """How tokens are chosen; settings that greedy decoding does not use are left at their defaults."""
    temperature = 0.0 if config.temperature is None else config.temperature
    top_p = 1.0 if config.top_p is None else config.top_p
    if temperature == 0:
        return Sampling()
    return Sampling(temperature=temperature, top_p=top_p, seed=config.seed)
