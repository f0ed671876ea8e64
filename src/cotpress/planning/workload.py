"""The amount of work of a run, as far as its configuration says, and the GPU hours that it takes."""

from typing import NamedTuple

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


class Work(NamedTuple):
    """A part of a run: its tokens and operations, over all epochs and passes, and its hours on one device."""

    name: str
    num_tokens: float
    flops: float
    hours: float


def arithmetic_work(
    name: str, assumed: PlanConfig, *, tokens: float, flops: float, utilisation: float, float32: bool = False
) -> Work:
    """A part whose time is its operations over the card's arithmetic, in bfloat16 or in float32."""
    peak_tflops = assumed.rates.float32_tflops if float32 else assumed.rates.peak_tflops
    hours = flops / (peak_tflops * 1e12 * utilisation) / 3600
    return Work(name, tokens, flops, hours)


def writing_work(name: str, writing: Writing, assumed: PlanConfig, *, answers: int, tokens: int, rows: int) -> Work:
    """Writing a number of answers of so many tokens each, `rows` at once if that many fit the device.

    Each step reads all weights and the cached keys and values once, for one more token of all these answers.
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
    return Work(name, answers * tokens, flops, hours=seconds / 3600)


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
    number = UNKNOWN_TRACES if number is None else number
    return number if data.limit is None else min(number, data.limit)


def num_problems(benchmark: BenchmarkConfig) -> int | None:
    """Number of problems of a benchmark or of training questions; None if only reading them would tell."""
    number: int | None = None
    if isinstance(benchmark, PlantedBenchmarkConfig):
        number = benchmark.num_problems
    elif isinstance(benchmark, PublishedBenchmarkConfig):
        number = benchmark.num_published
    if benchmark.limit is None:
        return number
    return benchmark.limit if number is None else min(number, benchmark.limit)
