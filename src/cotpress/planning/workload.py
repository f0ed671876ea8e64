"""The amount of work of a run, as far as its configuration says, and the GPU hours that it takes."""

from dataclasses import dataclass

from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PublishedBenchmarkConfig,
    SelfWrittenDataConfig,
)
from cotpress.planning.config import PlanConfig
from cotpress.planning.measure import Writing

UNKNOWN_TRACES = 1000
"""Number of traces where only reading the data would tell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A part of a run.

    Attributes:
        name: The part.
        num_tokens: Tokens that go through the model, over all epochs and passes.
        flops: Operations.
        hours: Hours of one device; more devices share them.
    """

    name: str
    num_tokens: float
    flops: float
    hours: float


def arithmetic_work(name: str, assumed: PlanConfig, *, tokens: float, flops: float, utilisation: float) -> Work:
    """A part whose time is its operations over the card's arithmetic."""
    hours = flops / (assumed.rates.peak_tflops * 1e12 * utilisation) / 3600
    return Work(name=name, num_tokens=tokens, flops=flops, hours=hours)


def writing_work(name: str, writing: Writing, assumed: PlanConfig, *, answers: int, tokens: int, rows: int) -> Work:
    """Writing: each step reads all weights and the cached keys and values once, for one more token of `rows` answers.

    Args:
        name: The part.
        writing: The model's memory and operations.
        assumed: Rates of the card, and the length of the prompts.
        answers: Number of answers.
        tokens: Tokens of each.
        rows: Answers written at once, if that many fit the device.
    """
    rows = max(min(rows, answers, rows_that_fit(writing, assumed)), 1)
    step_bytes = writing.weights + rows * writing.cache * (assumed.prompt_tokens + tokens / 2)
    arithmetic = assumed.rates.peak_tflops * 1e12 * assumed.scoring_utilisation
    step_s = max(
        step_bytes / (assumed.rates.bandwidth_gb_s * 1e9 * assumed.generation_utilisation),
        rows * writing.token_flops / arithmetic,
    )
    seconds = answers * (tokens / rows * step_s + writing.prompt_flops / arithmetic)
    flops = answers * (tokens * writing.token_flops + writing.prompt_flops)
    return Work(name=name, num_tokens=answers * tokens, flops=flops, hours=seconds / 3600)


def rows_that_fit(writing: Writing, assumed: PlanConfig) -> int:
    """Answers that a device can write at once; 0 if the model does not fit."""
    return max(int((assumed.room - writing.weights) // writing.row), 0)


def num_traces(data: DataConfig, assumed: PlanConfig) -> int:
    """Number of traces of a run, those kept out of training included."""
    number = assumed.num_traces
    if number is None and isinstance(data, PlantedDataConfig):
        number = data.num_traces
    if number is None and isinstance(data, SelfWrittenDataConfig):
        number = num_problems(data.questions)
    if number is None:
        number = UNKNOWN_TRACES
    return number if data.limit is None else min(number, data.limit)


def num_problems(benchmark: BenchmarkConfig) -> int | None:
    """Number of problems of a benchmark or of training questions; None if only reading them would tell."""
    match benchmark:
        case PlantedBenchmarkConfig():
            number: int | None = benchmark.num_problems
        case PublishedBenchmarkConfig():
            number = benchmark.num_published
        case _:
            number = None
    if benchmark.limit is None:
        return number
    return benchmark.limit if number is None else min(number, benchmark.limit)
