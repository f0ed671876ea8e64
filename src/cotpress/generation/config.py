"""Settings of text generation: the backend, and the choice of the next token."""

from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from omegaconf import MISSING

from cotpress.errors import ConfigError
from cotpress.settings import Amount, Count, InputPath, Natural, Positive, interval


@dataclass(kw_only=True, slots=True)
class GenerationConfig:
    """Common to all backends (config group `generation`)."""

    temperature: Amount | None = None
    """0 is greedy, higher is more random. null is greedy, or 0.6 for several samples; set `evaluation.temperature` for
    answers to a benchmark."""
    top_p: Annotated[float, interval("(0, 1]")] | None = None
    """Smallest set of likeliest tokens with this much probability, in (0, 1]. null is 1, or 0.95 for several samples;
    set `evaluation.top_p` for answers to a benchmark."""
    seed: Natural = 0
    """Seed of the draws; not used by greedy decoding."""


@dataclass(kw_only=True, slots=True)
class TransformersGenerationConfig(GenerationConfig):
    """The model runs in this process; `trainer.generation_tokens` limits the size of a batch."""


@dataclass(kw_only=True, slots=True)
class ServerGenerationConfig(GenerationConfig):
    """A server with the OpenAI interface generates: vLLM, SGLang, llama.cpp or a hosted model."""

    base_url: str = MISSING
    """Address up to and including the version, e.g. http://localhost:8000/v1; no user name or key in it."""
    model: str = MISSING
    """Name of the model on the server, or of a LoRA adapter that it has loaded."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; null sends no key. The key itself is never written."""
    concurrency: Count = 16
    """Requests at the same time; changes speed only."""
    timeout_s: Positive = 600.0
    """Longest wait for one answer, in seconds."""
    max_retries: Natural = 6
    """Repetitions of a request after 408, 409, 429, 5xx, a time-out or a lost connection, with growing pauses."""
    thinking_token_budget: Count | None = None
    """Tokens after which the server ends a thinking (vLLM, started with --reasoning-parser); null sets no limit."""

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


@dataclass(kw_only=True, slots=True)
class VllmGenerationConfig(GenerationConfig):
    """vLLM is started on the GPUs of this machine (or its CPU, by vLLM's build for it), generates, and is ended."""

    python: InputPath | None = None
    """Interpreter of an environment that has vLLM, whose pins may differ from ours; null is that of this process."""
    arguments: list[str] = field(default_factory=list)
    """Further arguments of the server, e.g. [--enforce-eager]."""
    tensor_parallel: Count | None = None
    """GPUs that share one copy of the weights; null is the fewest that hold them. All copies together take all GPUs."""
    gpu_memory_utilization: Annotated[float, interval("(0, 1)")] = 0.9
    """Share of the memory of each GPU for vLLM, in (0, 1); a process that has trained keeps about 1 GB of it."""
    start_timeout_s: Positive = 1800.0
    """Longest wait for the start of the server, in seconds; a large model takes minutes to load."""
    concurrency: Count = 256
    """Requests at the same time; changes speed only."""
    timeout_s: Positive = 3600.0
    """Longest wait for one answer, in seconds."""
    probe_prompts: Natural = 32
    """Prompts whose first greedy tokens are compared with those of the model in this process; 0 compares none."""
    thinking_token_budget: Count | None = None
    """Tokens after which vLLM ends a thinking (with --reasoning-parser among `arguments`); null sets no limit."""
