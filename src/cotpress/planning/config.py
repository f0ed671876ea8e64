"""Assumptions of `plan=true` about devices and data."""

from dataclasses import dataclass
from typing import Annotated

from cotpress.settings import Amount, Count, Natural, Positive, interval

_Share = Annotated[float, interval("(0, 1]")]


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """Assumptions of `plan=true`; they change no result."""

    device_gb: Positive = 80.0
    """Memory of a device, in 10^9 bytes."""
    reserve_gb: Amount = 4.0
    """Part of it that is left to CUDA, its libraries and what the allocator cannot use, in 10^9 bytes."""
    peak_tflops: Positive = 312.0
    """Dense bfloat16 arithmetic of a device, in 10^12 operations per second: A100 312, H100 and H200 989."""
    training_utilisation: _Share = 0.4
    """Share of the peak that training reaches, in (0, 1]."""
    scoring_utilisation: _Share = 0.4
    """Share of the peak that reading texts reaches, in (0, 1]."""
    generation_utilisation: _Share = 0.05
    """Share of the peak that writing reaches, in (0, 1]: it waits for memory, not for arithmetic."""
    num_traces: Count | None = None
    """Traces of a run; null is what `data` says, or 1,000 where only reading the data would tell."""
    prompt_tokens: Count = 200
    """Mean tokens of a prompt."""
    thinking_tokens: Count = 2000
    """Mean tokens of a thinking text before it is compressed."""
    response_tokens: Natural = 400
    """Mean tokens of the written solution after it."""
    answer_tokens: Count | None = None
    """Mean tokens of an answer to the benchmark; null is the benchmark's whole budget, which is the most it can be."""
