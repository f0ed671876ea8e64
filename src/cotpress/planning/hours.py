"""A whole run in GPU hours: arithmetic, divided by what a device is assumed to do of it.

They are estimates for orientation: what is not arithmetic (loading, checking answers, waiting) is not in them, and the
utilisations are assumptions (`PlanConfig`), not measurements.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cotpress.planning.arithmetic import forward_flops, training_flops
from cotpress.planning.config import PlanConfig
from cotpress.planning.setting import Setting
from cotpress.planning.shape import ModelShape

_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A part of a run.

    Attributes:
        name: What is done.
        num_tokens: Tokens that go through the model, over all epochs and passes.
        flops: Operations.
        utilisation: Share of a device's peak that it reaches.
    """

    name: str
    num_tokens: int
    flops: int
    utilisation: float

    def gpu_hours(self, peak_tflops: float) -> float:
        """Hours of one device; more devices share them."""
        return self.flops / (peak_tflops * 10**12 * self.utilisation) / _SECONDS


def training_work(
    name: str, shape: ModelShape, setting: Setting, assumed: PlanConfig, *, sequences: int, epochs: int, tokens: int
) -> Work:
    """Fine-tuning on sequences of `tokens` tokens each, prompt included."""
    per_sequence = training_flops(shape, setting, [tokens], max(tokens - assumed.prompt_tokens, 1))
    runs = sequences * epochs
    return Work(
        name=name,
        num_tokens=runs * tokens,
        flops=runs * per_sequence,
        utilisation=assumed.training_utilisation,
    )


def scoring_work(
    name: str, shape: ModelShape, assumed: PlanConfig, *, texts: int, passes: int, tokens: int, scored: int
) -> Work:
    """Reading texts of `tokens` tokens `passes` times, for the log-probabilities of `scored` of them."""
    return Work(
        name=name,
        num_tokens=texts * passes * tokens,
        flops=texts * passes * forward_flops(shape, [tokens], scored),
        utilisation=assumed.scoring_utilisation,
    )


def generation_work(name: str, shape: ModelShape, assumed: PlanConfig, *, answers: int, tokens: int) -> Work:
    """Writing answers of `tokens` tokens each after a prompt: each token is read once, with all before it."""
    length = assumed.prompt_tokens + tokens
    return Work(
        name=name,
        num_tokens=answers * tokens,
        flops=answers * forward_flops(shape, [length], tokens),
        utilisation=assumed.generation_utilisation,
    )


def total_gpu_hours(work: Iterable[Work], assumed: PlanConfig) -> float:
    """GPU hours of several parts."""
    return sum(part.gpu_hours(assumed.peak_tflops) for part in work)
