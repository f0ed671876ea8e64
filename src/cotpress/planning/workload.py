"""How much of everything a run does, as far as its configuration tells, and what it assumes where it does not."""

from dataclasses import dataclass

from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PlantedQuestionsConfig,
    PublishedBenchmarkConfig,
    SelfWrittenDataConfig,
)
from cotpress.planning.config import PlanConfig

UNKNOWN_TRACES = 1000
"""Traces that are counted with where only reading the data would tell their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a trace's parts.

    Attributes:
        prompt: Question and template.
        thinking: Before compression.
        response: The written solution.
    """

    prompt: int
    thinking: int
    response: int

    def whole(self, ratio: float = 1.0) -> int:
        """Tokens of a training sequence whose thinking is cut to a ratio."""
        return self.prompt + round(self.thinking * ratio) + self.response


def lengths_of(assumed: PlanConfig) -> Lengths:
    """The lengths that `planning` assumes."""
    return Lengths(prompt=assumed.prompt_tokens, thinking=assumed.thinking_tokens, response=assumed.response_tokens)


def num_traces(data: DataConfig, assumed: PlanConfig) -> int:
    """Traces of a run, those kept out of training included."""
    found = assumed.num_traces
    if found is None and isinstance(data, PlantedDataConfig):
        found = data.num_traces
    if found is None and isinstance(data, SelfWrittenDataConfig):
        found = num_problems(data.questions)
    if found is None:
        found = UNKNOWN_TRACES
    return found if data.limit is None else min(found, data.limit)


def num_problems(benchmark: BenchmarkConfig) -> int | None:
    """Problems of a benchmark or of training questions; None if only reading them would tell."""
    match benchmark:
        case PlantedBenchmarkConfig() | PlantedQuestionsConfig():
            found: int | None = benchmark.num_problems
        case PublishedBenchmarkConfig():
            found = benchmark.num_published
        case _:
            found = None
    if benchmark.limit is None:
        return found
    return benchmark.limit if found is None else min(found, benchmark.limit)
