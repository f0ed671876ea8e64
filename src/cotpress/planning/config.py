"""What `plan=true` assumes of devices and data."""

from dataclasses import dataclass

from cotpress.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """Assumptions of `plan=true`; nothing else reads them, and they change no result."""

    device_gb: float = 80.0
    """Memory of a device, in 10^9 bytes."""
    reserve_gb: float = 4.0
    """Part of it that is left to CUDA, its libraries and what the allocator cannot use, in 10^9 bytes."""
    peak_tflops: float = 312.0
    """Dense bfloat16 arithmetic of a device, in 10^12 operations per second: A100 312, H100 and H200 989."""
    training_utilisation: float = 0.4
    """Share of the peak that training reaches, in (0, 1]."""
    scoring_utilisation: float = 0.4
    """Share of the peak that reading texts reaches, in (0, 1]."""
    generation_utilisation: float = 0.05
    """Share of the peak that writing reaches, in (0, 1]: it waits for memory, not for arithmetic."""
    num_traces: int | None = None
    """Traces of a run; null is what `data` says, or 1,000 where only reading the data would tell."""
    prompt_tokens: int = 200
    """Mean tokens of a prompt."""
    thinking_tokens: int = 2000
    """Mean tokens of a thinking text before it is compressed."""
    response_tokens: int = 400
    """Mean tokens of the written solution after it."""
    answer_tokens: int | None = None
    """Mean tokens of an answer to the benchmark; null is the benchmark's whole budget, which is the most it can be."""


def check_plan(config: PlanConfig) -> None:
    """Refuse what no device or data can be.

    Raises:
        ConfigError: A number out of range.
    """
    for name in ("training_utilisation", "scoring_utilisation", "generation_utilisation"):
        if not 0 < getattr(config, name) <= 1:
            raise ConfigError(f"planning.{name}: got {getattr(config, name)}, allowed: a number in (0, 1]")
    for name in ("device_gb", "peak_tflops", "num_traces", "prompt_tokens", "thinking_tokens", "answer_tokens"):
        got = getattr(config, name)
        if got is not None and got <= 0:
            raise ConfigError(f"planning.{name}: got {got}, allowed: more than 0")
    for name in ("reserve_gb", "response_tokens"):
        if getattr(config, name) < 0:
            raise ConfigError(f"planning.{name}: got {getattr(config, name)}, allowed: 0 or more")
