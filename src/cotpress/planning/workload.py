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
from cotpress.scoring.config import (
    CtsConfig,
    GogiConfig,
    GreedyNllConfig,
    MixConfig,
    ReadingConfig,
    ReferenceWalkConfig,
    Rho1Config,
    ScorerConfig,
)

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


def num_passes(scorer: ScorerConfig) -> int | None:
    """Forward passes of the scoring model over each text, a backward pass counted as two; None if it depends on the
    text. A scorer with a small model of its own (`tokenskip`), or with none, has 0."""
    match scorer:
        case ReferenceWalkConfig() | GreedyNllConfig():
            return None
        case MixConfig():
            parts = [num_passes(scorer.parts[name]) for name in scorer.weighted]
            known = [n for n in parts if n is not None]
            return sum(known) if len(known) == len(parts) else None
        case GogiConfig():
            return 3
        case CtsConfig() | Rho1Config():
            return 2
        case ReadingConfig():
            return 1
        case _:
            return 0
