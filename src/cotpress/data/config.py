"""Settings of the data stage: training traces and benchmark problems."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

from omegaconf import II, MISSING

from cotpress.answers.extraction import Extractor
from cotpress.settings import Amount, Count, Natural, Rule, interval

_BUDGET = II(".budgets.${.protocol}")
Difficulty = Annotated[int, Rule(lambda number: number in (1, 2, 3), "1, 2 or 3")]


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Source of training traces (config group `data`)."""

    name: str = MISSING
    """Name of the source, shown in tables."""
    validation_fraction: Annotated[float, interval("[0, 1)")] = 0.1
    """Share of the traces kept out of training, in [0, 1)."""
    limit: Count | None = None
    """Use only the first so many usable rows."""
    strict: bool = False
    """Make the first bad row an error instead of counting it as dropped."""

    @property
    def extractor(self) -> Extractor:
        """Kind of answer in the traces; independent of the benchmark's."""
        return Extractor.math


@dataclass(kw_only=True, slots=True)
class PlantedDataConfig(DataConfig):
    """Built-in word problems whose redundant thinking is planted and labelled."""

    num_traces: Count = MISSING
    """Traces to generate, validation included."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    difficulty: Difficulty = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    redundancy: Amount = 1.0
    """Amount of planted redundancy relative to the default, >= 0; 0 leaves only the equations."""
    seed: Natural = MISSING
    """Seed of the generator."""


@dataclass(kw_only=True, slots=True)
class JsonlDataConfig(DataConfig):
    """Rows `id, question, thinking, response, answer` from .jsonl or .parquet files."""

    path: str = MISSING
    """File to read."""
    field: str | None = None
    """Column whose text is compressed in place of `thinking`. Such rows need only the columns that the scorer reads;
    all of them are compressed (`validation_fraction` does not apply), and no student can be trained on them."""


@dataclass(kw_only=True, slots=True)
class HubFile:
    """One file of a data set on the hub."""

    dataset: str = MISSING
    """Hub id of the data set, owner/name."""
    revision: str | None = None
    """Commit, tag or branch; null is the newest. Artifacts are identified by the content of the file."""
    file: str = MISSING
    """Path inside the data set: .jsonl, .parquet or .csv."""


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """Problems that students are evaluated on (config group `benchmark`)."""

    name: str = MISSING
    """Name of the benchmark, shown in tables."""
    limit: Count | None = None
    """Use only the first so many problems."""
    max_new_tokens: Count = MISSING
    """Generation budget per answer, in the student's tokens."""
    prompt: Annotated[str, Rule(lambda text: "{question}" in text, "a text with {question} in it")] = "{question}"
    """Text of the user's turn; `{question}` is replaced. The system text is that of the model (`model.chat.system`),
    because a student is evaluated with the prompt of its training."""
    extractor: Extractor = Extractor.math
    """Kind of answer that is extracted from an output: math, number, integer, letter."""

    @property
    def title(self) -> str:
        """Name in tables and of run directories."""
        return self.name


@dataclass(kw_only=True, slots=True)
class PlantedBenchmarkConfig(BenchmarkConfig):
    """Held-out problems of the built-in generator."""

    num_problems: Count = MISSING
    """Problems to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all, including those held out of training."""
    difficulty: Difficulty = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    seed: Natural = 2_000_003
    """Seed of the generator. No problem has the numbers of a training trace, whatever the seeds."""


@dataclass(kw_only=True, slots=True)
class PlantedQuestionsConfig(BenchmarkConfig):
    """Training questions of the built-in generator (config group `questions`), with other numbers than the evaluated
    problems."""

    num_problems: Count = MISSING
    """Problems to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    difficulty: Difficulty = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    seed: Natural = 4_000_037
    """Seed of the generator; differs from that of `data=planted`, so that the questions differ from its traces."""


@dataclass(kw_only=True, slots=True)
class JsonlBenchmarkConfig(BenchmarkConfig):
    """Problems `id, question, answer` from a .jsonl or .parquet file."""

    path: str = MISSING
    """File to read."""
    unanswerable: bool = False
    """No question of the file has an answer, for instance because a premise is missing. The column `answer` is not
    read, and an output is right if it says that there is no answer."""

    @property
    def title(self) -> str:
        """The name, or the file's name if none was given, so that two files do not share a table."""
        return Path(self.path).stem if self.name == "jsonl" else self.name


@dataclass(kw_only=True, slots=True)
class PublishedBenchmarkConfig(BenchmarkConfig):
    """A published test set, from the hub or a local copy. A bad row is an error: without it the set would differ."""

    hub: HubFile = field(default_factory=HubFile)
    """The published file."""
    path: str | None = None
    """Local copy (.jsonl, .parquet or .csv); null downloads the file from the hub."""
    num_published: int = MISSING
    """Problems in the published set. Another number is reported, because its results are not comparable."""
    id_columns: list[str] = field(default_factory=lambda: ["id"])
    """Possible names of the id column; the first that exists is used, else the row number."""
    question_columns: list[str] = field(default_factory=lambda: ["question", "problem"])
    """Possible names of the question column."""
    answer_columns: list[str] = field(default_factory=lambda: ["answer"])
    """Possible names of the column with the gold answer."""
    answer_after: str = ""
    """Text before the gold answer: the answer begins after its last occurrence, if there is one."""
    max_new_tokens: Count = _BUDGET
    """Generation budget per answer, in the student's tokens."""
    protocol: str = MISSING
    """Paper whose token budget is used; a key of `budgets`."""
    budgets: dict[str, int] = field(default_factory=dict)
    """Token budget of each paper that reports this benchmark; `max_new_tokens` is that of `protocol`."""


@dataclass(kw_only=True, slots=True)
class MultipleChoiceBenchmarkConfig(PublishedBenchmarkConfig):
    """A published multiple-choice test set; the order of the options is drawn per question."""

    wrong_columns: list[str] = MISSING
    """Columns of the wrong options; the right option is in `answer_columns`."""
    seed: Natural = MISSING
    """Seed of the order of the options, which depends on seed and question id only."""


@dataclass(kw_only=True, slots=True)
class TruthConfig:
    """Traces with known important parts (config group `truth`)."""

    name: str = MISSING
    """Name of the truth, shown in tables."""
    limit: Count | None = None
    """Use only the first so many usable rows."""


@dataclass(kw_only=True, slots=True)
class PlantedTruthConfig(TruthConfig):
    """Built-in traces with a label for every character."""

    num_traces: Count = MISSING
    """Traces to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    difficulty: Difficulty = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    redundancy: Amount = 1.0
    """Amount of planted redundancy relative to the default, >= 0."""
    seed: Natural = 3_000_017
    """Seed of the generator. No problem has the numbers of a training trace, whatever the seeds."""


class Importance(Enum):
    """Measured importance of a sentence (Thought Anchors, arXiv 2506.19143)."""

    counterfactual_importance_kl = "counterfactual_importance_kl"
    """Shift of the answers if the sentence is replaced by one of another meaning; the measure of the paper."""
    resampling_importance_kl = "resampling_importance_kl"
    """Shift of the answers if the sentence is resampled, whatever it then means."""
    forced_importance_kl = "forced_importance_kl"
    """Shift of the answers if the model has to answer right after the sentence."""


@dataclass(kw_only=True, slots=True)
class ThoughtAnchorsConfig(TruthConfig):
    """Sentences with an importance measured by resampling."""

    path: str = MISSING
    """File to read, .jsonl."""
    importance: Importance = Importance.counterfactual_importance_kl
    """Measure that is used."""


class Redundant(Enum):
    """Definitions of the redundant steps of a PRMBench row."""

    inserted = "inserted"
    """Steps that are not in the original solution; edited steps are not judged."""
    error_steps = "error_steps"
    """Steps in the annotation of the benchmark."""


@dataclass(kw_only=True, slots=True)
class PrmbenchConfig(TruthConfig):
    """Solutions with inserted redundant steps."""

    path: str = MISSING
    """File to read, .jsonl."""
    redundant: Redundant = Redundant.inserted
    """Definition of the redundant steps."""
