"""Settings of text generation: the backend and its sampling."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from omegaconf import MISSING

from cotpress.errors import ConfigError
from cotpress.settings import Amount, Count, Natural, Positive, interval


@dataclass(kw_only=True, slots=True)
class GenerationConfig:
    """Common to all backends (config group `generation`)."""

    temperature: Amount | None = None
    """0 is greedy, higher is more random; null is the default of the caller: greedy, or `evaluation.temperature`."""
    top_p: Annotated[float, interval("(0, 1]")] | None = None
    """Probability mass of nucleus sampling, in (0, 1]; null is 1, or `evaluation.top_p`."""
    seed: Natural = 0
    """Seed of the sampling."""


@dataclass(kw_only=True, slots=True)
class TransformersGenerationConfig(GenerationConfig):
    """The model in this process; `trainer.generation_tokens` bounds its batches."""

    packed: bool = True
    """Keep float32 weights on a CPU in the layout of oneDNN: faster for a few rows, equal up to rounding."""


@dataclass(kw_only=True, slots=True)
class ServerGenerationConfig(GenerationConfig):
    """A server with the OpenAI interface: vLLM, SGLang, llama.cpp or a hosted model."""

    base_url: str = MISSING
    """Address with the version, e.g. http://localhost:8000/v1, without user name or key."""
    model: str = MISSING
    """Name of the model on the server, or of a LoRA adapter loaded there."""
    api_key_env: str | None = None
    """NAME of the environment variable with the key; null sends none. The key is never written to disk."""
    concurrency: Count = 16
    """Number of parallel requests; changes speed only."""
    timeout_s: Positive = 600.0
    """Longest wait for one answer, in seconds."""
    max_retries: Natural = 6
    """Further attempts after 408, 409, 429, 5xx, time-outs and lost connections, with growing pauses."""

    def validate(self, key: str) -> None:
        """Refuse an address that is none, and one that holds a secret."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{key}.base_url: allowed: an address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                f"{key}.base_url: it holds a user name, password or query, which would end up in config.yaml and logs. "
                f"Fix: give the key in an environment variable, {key}.api_key_env=NAME"
            )
