"""Settings of text generation: the backend, and the choice of the next token."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass(kw_only=True, slots=True)
class GenerationConfig:
    """Common to all backends (config group `generation`)."""

    temperature: float | None = None
    """0 is greedy, higher is more random. null is greedy, or 0.6 for several samples; set `evaluation.temperature` for
    answers to a benchmark."""
    top_p: float | None = None
    """Smallest set of likeliest tokens with this much probability, in (0, 1]. null is 1, or 0.95 for several samples;
    set `evaluation.top_p` for answers to a benchmark."""
    seed: int = 0
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
    concurrency: int = 16
    """Requests at the same time; changes speed only."""
    timeout_s: float = 600.0
    """Longest wait for one answer, in seconds."""
    max_retries: int = 6
    """Repetitions of a request after 408, 409, 429, 5xx, a time-out or a lost connection, with growing pauses."""
