"""Settings of self-written data: who is asked what, and which of the answers become traces."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from cotpress.answers.extraction import Extractor
from cotpress.data.config import BenchmarkConfig, DataConfig, JsonlBenchmarkConfig
from cotpress.errors import ConfigError
from cotpress.generation.config import GenerationConfig
from cotpress.settings import Count


class Format(Enum):
    """How an output is divided into thinking and response."""

    auto = "auto"
    """`tags` if at least half of the finished outputs close their thinking, else `answer_line`."""
    tags = "tags"
    """At the tags of `model.chat`: a reasoning model, or a student."""
    answer_line = "answer_line"
    """Before the sentence that states the answer; the response is one line with the answer (TokenSkip): an instruct
    model."""


class Pick(Enum):
    """Which of several right answers to one question is kept."""

    shortest = "shortest"
    """The one with the fewest thinking tokens."""
    first = "first"
    """The one that was sampled first."""


@dataclass(kw_only=True, slots=True)
class SelfWrittenDataConfig(DataConfig):
    """The run's model answers training questions; what it solves is kept (TokenSkip, arXiv 2502.12067, section 3.2)."""

    questions: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    """What is asked: training questions with gold answers; choose with questions@data.questions=NAME."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Which backend runs the model; choose with generation@data.generation=server."""
    adapter: str | None = None
    """Directory or hub id of a PEFT adapter on the model, e.g. that of a student; a server is told to load it."""
    max_new_tokens: Count = MISSING
    """Budget of one answer, in the model's tokens."""
    samples: Count = 1
    """Answers per question; with several, data.generation.temperature null is 0.6 and top_p null is 0.95 (CTS)."""
    pick: Pick = Pick.shortest
    """Which of several right answers to one question is kept."""
    max_thinking_tokens: Count | None = None
    """Longest thinking that is kept, in the model's tokens (TokenSkip: 500); null keeps all."""
    format: Format = Format.auto
    """How an output is divided into thinking and response: auto, tags, answer_line."""

    @property
    def extractor(self) -> Extractor:
        """See `DataConfig`."""
        return self.questions.extractor

    def validate(self, key: str) -> None:
        """Refuse several answers to a question that would all be the same, and questions without answers."""
        if self.samples > 1 and self.generation.temperature == 0:
            raise ConfigError(
                f"{key}.samples: got {self.samples} at temperature 0, where all answers to a question are the same. "
                f"Fix: {key}.generation.temperature=0.6, or {key}.samples=1"
            )
        if isinstance(self.questions, JsonlBenchmarkConfig) and self.questions.unanswerable:
            raise ConfigError(
                f"{key}.questions.unanswerable: got true, but only an answer that can be checked makes a trace. "
                "Fix: give questions with answers"
            )
