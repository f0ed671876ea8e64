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
    """Where training traces come from (config group `data`)."""

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
        """Kind of answer that the questions of the traces have, whatever that of the benchmark is."""
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
    """Column whose text is compressed instead of `thinking`; such rows need only the columns that the scorer uses,
    all of them are compressed (`validation_fraction` does not apply), and no student can be trained on them."""


@dataclass(kw_only=True, slots=True)
class HubFile:
    """One file of a data set on the hub."""

    dataset: str = MISSING
    """Hub id of the data set, owner/name."""
    revision: str | None = None
    """Commit, tag or branch; null is the newest. What was read is identified by its content."""
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
    """What the user's turn says; `{question}` is replaced. The system text is the model's (`model.chat.system`),
    because a student has to be asked the way it was trained."""
    extractor: Extractor = Extractor.math
    """Kind of answer that is looked for in an output: math, number, integer, letter."""

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
    """Problem families; empty means all of them, those held out of training included."""
    difficulty: Difficulty = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    seed: Natural = 2_000_003
    """Seed of the generator. Equal to the data's or not, no problem has the numbers of a training trace."""


@dataclass(kw_only=True, slots=True)
class PlantedQuestionsConfig(BenchmarkConfig):
    """Problems of the built-in generator to train on (config group `questions`): none has the numbers of a problem that
    is evaluated."""

    num_problems: Count = MISSING
    """Problems to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    difficulty: Difficulty = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    seed: Natural = 4_000_037
    """Seed of the generator; not that of `data=planted`, or a student would be asked what it was trained on."""


@dataclass(kw_only=True, slots=True)
class JsonlBenchmarkConfig(BenchmarkConfig):
    """Problems `id, question, answer` from one's own .jsonl or .parquet file."""

    path: str = MISSING
    """File to read."""
    unanswerable: bool = False
    """No question of the file has an answer (for instance a premise is missing): no `answer` is read, and right is to
    say so."""

    @property
    def title(self) -> str:
        """The name; of a benchmark that was given none, its file's, so that two files do not share a table."""
        return Path(self.path).stem if self.name == "jsonl" else self.name


@dataclass(kw_only=True, slots=True)
class PublishedBenchmarkConfig(BenchmarkConfig):
    """A published test set, from the hub or from a local copy. A bad row is an error: it would be another test set."""

    hub: HubFile = field(default_factory=HubFile)
    """Where it is published."""
    path: str | None = None
    """Local copy (.jsonl, .parquet or .csv); null takes it from the hub."""
    num_published: int = MISSING
    """Problems in the published set; another number is reported, for its results do not compare."""
    id_columns: list[str] = field(default_factory=lambda: ["id"])
    """Names under which copies hold the id; the first one present counts, without any the row number is the id."""
    question_columns: list[str] = field(default_factory=lambda: ["question", "problem"])
    """Names under which copies hold the question."""
    answer_columns: list[str] = field(default_factory=lambda: ["answer"])
    """Names under which copies hold the gold answer."""
    answer_after: str = ""
    """The gold answer is what follows the last occurrence of this text, where it occurs."""
    max_new_tokens: Count = _BUDGET
    """Generation budget per answer, in the student's tokens."""
    protocol: str = MISSING
    """Paper whose token budget is used: a key of `budgets`."""
    budgets: dict[str, int] = field(default_factory=dict)
    """Token budget of each paper that reports this benchmark; `max_new_tokens` is the one of `protocol`."""


@dataclass(kw_only=True, slots=True)
class MultipleChoiceBenchmarkConfig(PublishedBenchmarkConfig):
    """A published test set of questions with one right and several wrong options, in an order drawn per question."""

    wrong_columns: list[str] = MISSING
    """Columns of the wrong options; the right one is in `answer_columns`."""
    seed: Natural = MISSING
    """Seed of the order of the options; seed and question id determine it."""


@dataclass(kw_only=True, slots=True)
class TruthConfig:
    """Traces of which it is known what matters in them (config group `truth`)."""

    name: str = MISSING
    """Name of the truth, shown in tables."""
    limit: Count | None = None
    """Use only the first so many usable rows."""


@dataclass(kw_only=True, slots=True)
class PlantedTruthConfig(TruthConfig):
    """Built-in traces with a label for every character; no problem has the numbers of a training trace."""

    num_traces: Count = MISSING
    """Traces to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    difficulty: Difficulty = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    redundancy: Amount = 1.0
    """Amount of planted redundancy relative to the default, >= 0."""
    seed: Natural = 3_000_017
    """Seed of the generator. Equal to the data's or not, no problem has the numbers of a training trace."""


class Importance(Enum):
    """Measured importance of a sentence (Thought Anchors, arXiv 2506.19143)."""

    counterfactual_importance_kl = "counterfactual_importance_kl"
    """How far the answers move if the sentence is replaced by one that means something else; the paper's measure."""
    resampling_importance_kl = "resampling_importance_kl"
    """How far the answers move if the sentence is written anew, whatever it then means."""
    forced_importance_kl = "forced_importance_kl"
    """How far the answers move if the model has to answer right after the sentence."""


@dataclass(kw_only=True, slots=True)
class ThoughtAnchorsConfig(TruthConfig):
    """Sentences whose importance was measured by resampling."""

    path: str = MISSING
    """File to read, .jsonl."""
    importance: Importance = Importance.counterfactual_importance_kl
    """Which of the measures counts."""


class Redundant(Enum):
    """Which steps of a PRMBench row count as redundant."""

    inserted = "inserted"
    """Steps that the original solution does not have; edited steps are not judged."""
    error_steps = "error_steps"
    """Steps that the benchmark's own annotation names."""


@dataclass(kw_only=True, slots=True)
class PrmbenchConfig(TruthConfig):
    """Solutions into which redundant steps were inserted."""

    path: str = MISSING
    """File to read, .jsonl."""
    redundant: Redundant = Redundant.inserted
    """Which steps count as redundant."""
