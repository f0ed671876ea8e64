"""Requests, completions, and the backends that complete them: a model in this process, a server, vLLM started here."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypedDict

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import pick_device
from cotpress.errors import ConfigError
from cotpress.generation.config import (
    GenerationConfig,
    ServerGenerationConfig,
    TransformersGenerationConfig,
    VllmGenerationConfig,
)
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import end_ids, load_model, load_tokenizer, model_identity
from cotpress.modeling.sources import source_identity
from cotpress.store.artifacts import ArtifactStore, fingerprint
from cotpress.store.source import identified

if TYPE_CHECKING:
    from cotpress.generation.vllm_server import VllmServer

STOP, LENGTH, REFUSED = "stop", "length", "refused"
"""Finish reasons: end token written, budget used up, or no room for prompt and budget in `model.context_tokens`."""
CTS_TEMPERATURE, CTS_TOP_P = 0.6, 0.95
"""Sampling of several answers to one prompt unless the settings say otherwise (CTS, arXiv 2505.17827, section 4.1)."""


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


Prompt: TypeAlias = Sequence[int] | Sequence[Message]
"""Exact token ids (at least one), or a conversation that the model's own chat template renders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to complete.

    Attributes:
        max_new_tokens: Budget in tokens, the end token included.
        stream: Name of its stream of random numbers. A draw depends on the seed, this name and the position, not on
            the other requests of the call.
    """

    prompt: Prompt
    max_new_tokens: int
    stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Choice of the next token.

    Attributes:
        temperature: 0 is greedy.
        top_p: Smallest set of likeliest tokens with this much probability, in (0, 1].
        seed: Seed of the draws; not used by greedy decoding.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One completion.

    Attributes:
        token_ids: Generated tokens without the end token; None if a server does not return them.
        text: The tokens as text, special tokens included (`</think>` may be one).
        finish_reason: `stop`, `length` or `refused`.
        latency_s: Seconds. From a server: of the request. In this process: an equal share of the time of every forward
            pass that the row was part of, so the latencies of a call add up to its time.
        reported_tokens: `num_tokens` according to the server; used if `token_ids` is None.
    """

    token_ids: tuple[int, ...] | None
    text: str
    finish_reason: str
    latency_s: float
    reported_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of generated tokens, the end token not counted."""
        return self.reported_tokens if self.token_ids is None else len(self.token_ids)


OnDone = Callable[[int, Generation], None]
"""Callback with the index of a request and its completion, called in the caller's thread as soon as it is finished."""


class Backend(Protocol):
    """Completes prompts."""

    def complete(
        self, requests: Sequence[Request], *, sampling: Sampling = GREEDY, on_done: OnDone | None = None
    ) -> list[Generation]:
        """Completions in the order of the requests; `on_done` is called once for each.

        Raises:
            GenerationError: A server cannot be reached, refuses the request, or answers with something else.
            MemoryLimitError: A single text does not fit the memory of this process.
        """


def open_backend(
    config: GenerationConfig,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    *,
    adapter: str | None = None,
    key: str = "model.path",
    server: "VllmServer | None" = None,
) -> Backend:
    """The configured backend, ready to generate.

    `adapter` is a directory or hub id of a PEFT adapter to put on the model, here or on the server; `key` is the
    setting of the model's path, for messages; `server` is used and kept by vLLM, and without it ends with the backend.

    Raises:
        ConfigError: A value is out of range, or the key is not in the environment.
        ModelError: The model cannot be loaded.
    """
    match config:
        case ServerGenerationConfig():
            from cotpress.generation.server import ServerBackend

            return ServerBackend(
                config,
                adapter,
                context_tokens=model.context_tokens,
                stop_token_ids=end_ids(model, store, key=key),
                tokenizer=load_tokenizer(model, store, key=key),
            )
        case TransformersGenerationConfig():
            from cotpress.generation.hf import TransformersBackend

            return TransformersBackend(
                load_model(model, store, adapter=adapter, merge_adapter=True, device=pick_device(trainer), key=key),
                load_tokenizer(model, store, key=key),
                context_tokens=model.context_tokens,
                generation_tokens=trainer.generation_tokens,
            )
        case VllmGenerationConfig():
            from cotpress.generation.vllm import VllmBackend
            from cotpress.generation.vllm_server import VllmServer

            return VllmBackend(config, model, trainer, store, server or VllmServer(), adapter=adapter, key=key)
    raise ConfigError(f"generation: no backend for {type(config).__name__}. Allowed: transformers, server, vllm")


OpenBackend = Callable[..., Backend]
"""`open_backend`, or a `KeptBackend` with the same arguments."""


class KeptBackend:
    """Opens backends and keeps the last one, so that a sweep loads the same weights once; holds at most one model.

    A vLLM server that it has started serves further adapters of the same weights. As a context it ends with the block.
    """

    def __init__(self) -> None:
        self._key = ""
        self._backend: Backend | None = None
        self._server: VllmServer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._backend, self._key = None, ""
        if self._server is not None:
            self._server.end()
        gc.collect()  # the modules of a model refer to each other

    def __call__(
        self,
        config: GenerationConfig,
        model: ModelConfig,
        trainer: TrainerConfig,
        store: ArtifactStore,
        *,
        adapter: str | None = None,
        key: str = "model.path",
    ) -> Backend:
        """See `open_backend`."""
        weights = generation_identity(config, model, trainer, adapter=adapter, key=key)["model"]
        opened = fingerprint(
            {"weights": weights, "attention": model.attention, "config": config, "trainer": trainer, "adapter": adapter}
        )
        if self._backend is None or opened != self._key:
            self._backend = None
            gc.collect()  # the modules of a model refer to each other
            if isinstance(config, VllmGenerationConfig):
                from cotpress.generation.vllm_server import VllmServer

                self._server = self._server or VllmServer()
            elif self._server is not None:
                self._server.end()  # its memory is for the next model
            self._backend = open_backend(config, model, trainer, store, adapter=adapter, key=key, server=self._server)
            self._key = opened
        return self._backend


def generation_identity(
    config: GenerationConfig,
    model: ModelConfig,
    trainer: TrainerConfig,
    *,
    adapter: str | None = None,
    key: str = "model.path",
) -> dict[str, Any]:
    """Model and sampling, which determine the texts together with prompts and budgets; no address, key or speed."""
    if isinstance(config, ServerGenerationConfig):
        from cotpress.generation.server import ServerBackend

        writer = identified({"served": config.model}, ServerBackend)
    elif isinstance(config, VllmGenerationConfig):
        from cotpress.generation.vllm import VllmBackend

        source = model_identity(model, pick_device(trainer), key=key)
        writer = identified(
            {"source": source, "context_tokens": model.context_tokens, "engine": "vllm"}, VllmBackend, load_tokenizer
        )
    else:
        from cotpress.generation.hf import TransformersBackend

        source = model_identity(model, pick_device(trainer), key=key)
        writer = identified(
            {"source": source, "context_tokens": model.context_tokens}, TransformersBackend, load_model, load_tokenizer
        )
    if (budget := getattr(config, "thinking_token_budget", None)) is not None:
        writer["thinking_token_budget"] = budget
    if adapter is not None:
        writer["adapter"] = source_identity(adapter, key="adapter")
    return {"model": writer, "sampling": sampling_of(config)}


def sampling_of(config: GenerationConfig) -> Sampling:
    """Choice of the next token; settings that greedy decoding does not use keep their defaults."""
    if not config.temperature:
        return GREEDY
    top_p = 1.0 if config.top_p is None else config.top_p
    return Sampling(temperature=config.temperature, top_p=top_p, seed=config.seed)
