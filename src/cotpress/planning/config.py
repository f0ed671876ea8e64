"""Settings of `plan=true`: the card, the share of its rates that is reached, and the size of the data."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, NamedTuple

from cotpress.settings import Amount, Count, Natural, Positive, interval

_Share = Annotated[float, interval("(0, 1]")]


class Card(Enum):
    """A GPU, by its data sheet; `planning.*_gb`, `planning.*_tflops` and `planning.bandwidth_gb_s` override it."""

    a100 = "a100"
    """A100 SXM: 80 GB."""
    h100 = "h100"
    """H100 SXM: 80 GB."""
    h200 = "h200"
    """H200 SXM: 141 GB."""
    l40s = "l40s"
    """L40S: 48 GB."""
    rtx4090 = "rtx4090"
    """RTX 4090: 24 GB."""


class Rates(NamedTuple):
    """Memory in GB, dense bfloat16 arithmetic in TFLOP/s, memory bandwidth in GB/s, float32 arithmetic in TFLOP/s."""

    device_gb: float
    peak_tflops: float
    bandwidth_gb_s: float
    float32_tflops: float


RATES = {
    Card.a100: Rates(80, 312, 2039, 19.5),
    Card.h100: Rates(80, 989, 3350, 67),
    Card.h200: Rates(141, 989, 4800, 67),
    Card.l40s: Rates(48, 362, 864, 91.6),
    Card.rtx4090: Rates(24, 165, 1008, 82.6),
}


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """Assumptions of `plan=true`; they change no result."""

    card: Card = Card.a100
    """The GPU: a100, h100, h200, l40s or rtx4090."""
    device_gb: Positive | None = None
    """Memory of a device, in 10^9 bytes; null is the card's."""
    reserve_gb: Amount = 4.0
    """Part of it that is left to CUDA, its libraries and what the allocator cannot use, in 10^9 bytes."""
    peak_tflops: Positive | None = None
    """Dense bfloat16 arithmetic of a device, in 10^12 operations per second; null is the card's."""
    bandwidth_gb_s: Positive | None = None
    """Memory bandwidth of a device, in 10^9 bytes per second; null is the card's."""
    float32_tflops: Positive | None = None
    """float32 arithmetic of a device, without TF32, in 10^12 operations per second; null is the card's."""
    training_utilisation: _Share = 0.4
    """Share of the arithmetic that training reaches, in (0, 1]."""
    scoring_utilisation: _Share = 0.4
    """Share of the arithmetic that reading texts and prompts reaches, in (0, 1]."""
    generation_utilisation: _Share = 0.5
    """Share of the memory bandwidth that writing reaches, in (0, 1]."""
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

    @property
    def rates(self) -> Rates:
        """The rates of a device."""
        given = (self.device_gb, self.peak_tflops, self.bandwidth_gb_s, self.float32_tflops)
        return Rates(*(own if own is not None else known for own, known in zip(given, RATES[self.card], strict=True)))

    @property
    def room(self) -> float:
        """Bytes of a device that a run can use."""
        return (self.rates.device_gb - self.reserve_gb) * 1e9
