"""Settings of self-written data: the questions, the model that answers them, and the choice of answers as traces."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from cotpress.answers.extraction import Extractor
from cotpress.data.config import BenchmarkConfig, DataConfig, JsonlBenchmarkConfig
from cotpress.errors import ConfigError
from cotpress.generation.config import GenerationConfig
from cotpress.settings import Count


class Format(Enum):
    """Ways to divide an output into thinking and response."""

    auto = "auto"
    """`tags` if at least half of the finished outputs close their thinking, else `answer_line`."""
    tags = "tags"
    """At the tags of `model.chat`; for reasoning models and students."""
    answer_line = "answer_line"
    """Before the sentence that states the answer; the response is one line with the answer (TokenSkip). For instruct
    models."""


class Pick(Enum):
    """Choices among several right answers to one question."""

    shortest = "shortest"
    """The answer with the fewest thinking tokens."""
    first = "first"
    """The first right answer in the order of sampling."""


@dataclass(kw_only=True, slots=True)
class SelfWrittenDataConfig(DataConfig):
    """Right answers of the run's model to training questions (TokenSkip, arXiv 2502.12067, section 3.2)."""

    questions: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    """Training questions with gold answers; choose with questions@data.questions=NAME."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Backend that runs the model; choose with generation@data.generation=server."""
    adapter: str | None = None
    """Directory or hub id of a PEFT adapter on the model, e.g. that of a student; a server loads it as well."""
    max_new_tokens: Count = MISSING
    """Token budget of one answer, in the model's tokens."""
    samples: Count = 1
    """Answers per question; with several, data.generation.temperature null is 0.6 and top_p null is 0.95 (CTS)."""
    pick: Pick = Pick.shortest
    """Choice among several right answers to one question."""
    max_thinking_tokens: Count | None = None
    """Longest thinking that is kept, in the model's tokens (TokenSkip: 500); null keeps all."""
    format: Format = Format.auto
    """Division of an output into thinking and response: auto, tags, answer_line."""

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
