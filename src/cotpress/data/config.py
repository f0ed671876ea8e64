"""Settings of the data stage: training traces and benchmark problems."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

from omegaconf import MISSING

from cotpress.answers.extraction import Extractor
from cotpress.data.columns import is_place
from cotpress.data.planted import Length
from cotpress.errors import ConfigError, require
from cotpress.generation.config import GenerationConfig
from cotpress.modeling.config import BASE_WEIGHTS, ORIGINAL_WEIGHTS
from cotpress.settings import Amount, Count, InputPath, Natural, Rule, interval

_ENDING = re.compile(r"\.(jsonl|ndjson|json|csv|parquet)(\.(gz|zst))?$", re.IGNORECASE)
_Prompt = Annotated[str, Rule(lambda text: "{question}" in text, "a text with {question} in it")]


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Source of the training traces (config group `data`)."""

    name: str = MISSING
    """Name of the source, shown in tables."""
    validation_fraction: Annotated[float, interval("[0, 1)")] = 0.1
    """Share of the traces kept out of training, in [0, 1). compress.py exports these as well."""
    limit: Count | None = None
    """Number of usable rows to read; null reads all."""
    strict: bool = False
    """Stop at the first bad row of a file instead of dropping and counting it."""
    decontaminate: bool = True
    """Leave out traces whose question is one of the benchmark's (`train.py`); false only reports them."""

    @property
    def extractor(self) -> Extractor:
        """Kind of answer to the questions of the traces, which may differ from that of the benchmark."""
        return Extractor.math


@dataclass(kw_only=True, slots=True)
class PlantedDataConfig(DataConfig):
    """Built-in word problems whose redundant thinking is planted and labelled."""

    num_traces: Count = MISSING
    """Traces to generate, validation included."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    length: Length = Length.short
    """short (two steps, 120 to 180 tokens of thinking), long (five, about 450) or very_long (twelve, up to 1,500)."""
    seed: Natural = MISSING
    """Seed of the generator."""


class FileFormat(Enum):
    """Format of a trace file: its columns, and the place of the thinking in them."""

    auto = "auto"
    """Recognised by the first rows."""
    cotpress = "cotpress"
    """`id, question, thinking, response, answer`."""
    openr1 = "openr1"
    """OpenR1-Math-220k: `problem`, `answer` and a list of `generations` with flags."""
    s1k11 = "s1k11"
    """s1K-1.1: `question`, `deepseek_thinking_trajectory`, `deepseek_attempt`."""
    s1k_gemini = "s1k_gemini"
    """s1K-1.1: `question`, `gemini_thinking_trajectory`, `gemini_attempt`; only where it is named."""
    s1k = "s1k"
    """s1K: `question`, `thinking_trajectories`, `attempt`."""
    openmath = "openmath"
    """OpenMathReasoning: `problem`, `generated_solution`, `expected_answer`."""
    tokenskip_pairs = "tokenskip_pairs"
    """TokenSkip's file of compressed texts, of which the uncompressed ones are read."""
    tokenskip = "tokenskip"
    """TokenSkip's predictions: `messages`, `model_output`, `prediction`, `answer`, `accuracy`."""
    tokenskip_llamafactory = "tokenskip_llamafactory"
    """TokenSkip's rows for LLaMA-Factory; those with a ratio marker are compressed already and dropped."""
    limo = "limo"
    """LIMO: `question`, `solution` (one text without tags), `answer`."""
    openthoughts = "openthoughts"
    """OpenThoughts-114k, Bespoke-Stratos: `conversations` with `<|begin_of_thought|>`."""
    sharegpt = "sharegpt"
    """`conversations` of turns with `from` and `value` (ShareGPT, OpenThoughts3)."""
    harmony = "harmony"
    """`messages` with channels (gpt-oss)."""
    chat = "chat"
    """`messages` of turns with `role` and `content`, maybe with `reasoning_content`, `reasoning` or `thinking`."""
    prompt_completion = "prompt_completion"
    """`prompt` and `completion` as messages (TRL)."""
    alpaca = "alpaca"
    """`instruction`, `input`, `output` (LLaMA-Factory)."""
    rendered = "rendered"
    """`text`: a whole conversation as a chat template renders it (DeepSeek-R1, ChatML, Llama 3, ...)."""
    tagged = "tagged"
    """A question, and a text with thinking tags in any of the usual columns."""
    cts = "cts"
    """`prompt`, and as `answer` the thinking (CTS)."""


Generations = Annotated[
    str,
    Rule(
        lambda text: text in ("first", "all", "shortest_correct") or (text.isascii() and text.isdigit() and text > "0"),
        "first, all, shortest_correct, or a number K for the first K",
    ),
]
_Place = Annotated[str, Rule(is_place, "a column, or a place in one such as messages[-1].content")]


@dataclass(kw_only=True, slots=True)
class ColumnsConfig:
    """Places of the standard columns in a file: `problem`, `meta.answer`, `generations[0]`, `messages[-1].content`,
    `conversations[from=gpt].value`; the first of several that has a value: `problem|question`. null is the format's."""

    question: _Place | None = None
    """Place of the question."""
    thinking: _Place | None = None
    """Place of the thinking; tags around it are stripped. A list of texts is several generations."""
    response: _Place | None = None
    """Place of the response, or of a text that tags divide into thinking and response."""
    answer: _Place | None = None
    """Place of the gold answer."""
    id: _Place | None = None
    """Place of the id; rows without one are named by their number."""


class Duplicates(Enum):
    """Treatment of a row with the id of an earlier row."""

    number = "number"
    """It gets an id of its own, `ID#2`, `ID#3` and so on; a row that equals an earlier one is dropped."""
    drop = "drop"
    """It is dropped."""


@dataclass(kw_only=True, slots=True)
class RowsDataConfig(DataConfig):
    """Rows of traces in any known format, or of texts."""

    format: FileFormat = FileFormat.auto
    """Format of the rows; auto recognises it by the first rows."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Places of single columns, in place of those of the format."""
    generations: Generations = "first"
    """Generations of a row that become traces, where it has several: first (the first complete one), all,
    shortest_correct (by the flags of the file, without any by the gold answer), or a number K for the first K."""
    duplicates: Duplicates = Duplicates.number
    """Treatment of a row with the id of an earlier one: number (ID#2; a row that is there twice is dropped), drop."""
    extractor: Extractor = Extractor.math
    """Kind of the gold answers: math, number, integer, letter. It decides about `compression.mode=first_solution`,
    `generations=shortest_correct`, the answers during training and those of the baseline shortest."""
    field: str | None = None
    """Column whose text is compressed instead of `thinking`. Such rows need only the columns that the scorer uses. All
    of them are compressed (`validation_fraction` does not apply), and no student can be trained on them."""

    def validate(self, key: str) -> None:
        """Refuse settings of traces for the texts of a column, which would not be read."""
        if self.field is not None and (self.format, self.columns, self.generations) != (
            FileFormat.auto, ColumnsConfig(), "first"
        ):  # fmt: skip
            raise ConfigError(
                f"{key}.field: got '{self.field}', and a setting of traces (format, columns or generations) that does "
                f"not apply to the texts of a column. Fix: {key}.columns.thinking={self.field}, or leave the others out"
            )


@dataclass(kw_only=True, slots=True)
class JsonlDataConfig(RowsDataConfig):
    """Rows of your own files."""

    path: InputPath = MISSING
    """File, folder or pattern ('DIR/*.jsonl'): .jsonl, .json, .csv (also .gz or .zst), .parquet."""


@dataclass(kw_only=True, slots=True)
class HubDataConfig(RowsDataConfig):
    """Rows of a data set of the Hugging Face hub, or of a folder that the library `datasets` reads."""

    path: InputPath = MISSING
    """Hub id (owner/name or hf://owner/name), a folder saved with `save_to_disk`, or a folder with files of a data
    set."""
    config: str | None = None
    """Configuration of the data set (subset); null is its default one."""
    split: str = "train"
    """Split of the data set."""
    revision: str | None = None
    """Commit, tag or branch; null is the newest."""
    streaming: bool = False
    """Read while downloading and keep nothing, so that data.limit downloads no more than it needs; false downloads the
    data set once, into the cache of `datasets`."""


@dataclass(kw_only=True, slots=True)
class HubFile:
    """One file of a data set on the hub."""

    dataset: str = MISSING
    """Hub id of the data set, owner/name."""
    revision: str | None = None
    """Commit, tag or branch; null is the newest. Artifacts are identified by the content of the file."""
    file: str = MISSING
    """Path inside the data set, of a file with rows: .jsonl, .json, .csv (also .gz or .zst), .parquet."""


@dataclass(kw_only=True, slots=True)
class ProtocolConfig:
    """Prompt, budget and sampling with which a paper asks a benchmark (config group `protocol`)."""

    max_new_tokens: Count = MISSING
    """Generation budget per answer, in the student's tokens."""
    context_tokens: Count | None = None
    """Longest prompt plus answer, in tokens, where that is below `model.context_tokens`; null is the model's."""
    temperature: Amount = 0.0
    """0 is greedy; `evaluation.temperature` overrides it."""
    top_p: Annotated[float, interval("(0, 1]")] = 1.0
    """Smallest set of likeliest tokens with this much probability, in (0, 1]; `evaluation.top_p` overrides it."""
    prompt: _Prompt = "{question}"
    """Text of the user's turn; `{question}` is replaced."""
    option: Annotated[
        str, Rule(lambda text: "{letter}" in text and "{option}" in text, "a text with {letter} and {option} in it")
    ] = "({letter}) {option}"
    """Line of each option of a multiple-choice question; `{letter}` and `{option}` are replaced."""


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """Problems on which students are evaluated (config group `benchmark`)."""

    name: str = MISSING
    """Name of the benchmark, shown in tables."""
    limit: Count | None = None
    """Number of problems to read; null reads all."""
    strict: bool = False
    """Stop at the first bad row of a file instead of dropping and counting it."""
    max_new_tokens: Count = MISSING
    """Generation budget per answer, in the student's tokens."""
    prompt: _Prompt = "{question}"
    """Text of the user's turn; `{question}` is replaced. The system text comes from the model (`model.chat.system`),
    because a student needs the prompt of its training."""
    protocol: str = ""
    """Paper that is followed in prompt, budget and sampling: a key of `protocols`. Empty: greedy."""
    protocols: dict[str, ProtocolConfig] = field(default_factory=dict)
    """Prompt, budget and sampling by paper. `prompt` and `max_new_tokens` are those of `protocol` unless given."""
    extractor: Extractor = Extractor.math
    """Kind of answer to extract from an output: math, number, integer, letter."""

    @property
    def title(self) -> str:
        """Name in tables and of run directories."""
        return self.name

    @property
    def followed(self) -> ProtocolConfig:
        """The protocol that is followed; the greedy one where none is chosen."""
        return self.protocols[self.protocol] if self.protocol else ProtocolConfig(max_new_tokens=self.max_new_tokens)

    def validate(self, key: str) -> None:
        """Refuse an unknown protocol."""
        allowed = ", ".join([*self.protocols, "'' (greedy answers)"])
        require(f"{key}.protocol", self.protocol, not self.protocol or self.protocol in self.protocols, allowed)


@dataclass(kw_only=True, slots=True)
class PlantedBenchmarkConfig(BenchmarkConfig):
    """Held-out problems of the built-in generator."""

    num_problems: Count = MISSING
    """Problems to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all, those held out of training included."""
    length: Length = Length.short
    """short (two steps, 120 to 180 tokens of thinking), long (five, about 450) or very_long (twelve, up to 1,500)."""
    seed: Natural = 2_000_003
    """Seed of the generator. With any seed, no problem has the numbers of a training trace."""


@dataclass(kw_only=True, slots=True)
class PlantedQuestionsConfig(PlantedBenchmarkConfig):
    """Problems of the built-in generator to train on (config group `questions`); none has the numbers of a benchmark
    problem. Without `families`, those held out of training are left out."""

    seed: Natural = 4_000_037
    """Seed of the generator; differs from that of `data=planted`, so that a student gets other questions than in its
    training."""


@dataclass(kw_only=True, slots=True)
class JsonlBenchmarkConfig(BenchmarkConfig):
    """Problems `id, question, answer` from your own file."""

    path: InputPath = MISSING
    """File, folder or pattern ('DIR/*.jsonl'): .jsonl, .json, .csv (also .gz or .zst), .parquet."""
    unanswerable: bool = False
    """No question of the file has an answer (for instance because a premise is missing). The column `answer` is not
    read, and an output is right if it declines to answer."""

    @property
    def title(self) -> str:
        """The name, or the name of the file if none was given, so that two files do not share a table."""
        return _ENDING.sub("", Path(self.path).name) if self.name == "jsonl" else self.name


@dataclass(kw_only=True, slots=True)
class PublishedBenchmarkConfig(BenchmarkConfig):
    """A published test set, from the hub or a local copy."""

    strict: bool = True
    """Stop at the first bad row, because a published set has none and this must be another file; false drops and counts
    it."""
    hub: HubFile = field(default_factory=HubFile)
    """File on the hub."""
    path: InputPath | None = None
    """Local copy, as for benchmark=jsonl; null takes it from the hub."""
    num_published: int = MISSING
    """Problems in the published set; a file with another number gives a warning."""
    id_columns: list[str] = field(default_factory=lambda: ["id"])
    """Names of the id column; the first one present is used, without any the row number is the id."""
    question_columns: list[str] = field(default_factory=lambda: ["question", "problem"])
    """Names of the question column; the first one present is used."""
    answer_columns: list[str] = field(default_factory=lambda: ["answer"])
    """Names of the column with the gold answer; the first one present is used."""
    answer_after: str = ""
    """The gold answer is the text after the last occurrence of this one, if it occurs."""


@dataclass(kw_only=True, slots=True)
class MultipleChoiceBenchmarkConfig(PublishedBenchmarkConfig):
    """A published test set of questions with one right and several wrong options, shuffled per question."""

    wrong_columns: list[str] = MISSING
    """Columns of the wrong options; the right option is in `answer_columns`."""
    seed: Natural = MISSING
    """Seed of the order of the options."""


class Format(Enum):
    """Division of an output into thinking and response."""

    auto = "auto"
    """`tags` if at least half of the finished outputs close their thinking, else `answer_line`."""
    tags = "tags"
    """At the tags of `model.chat`, for a reasoning model or a student."""
    answer_line = "answer_line"
    """Before the sentence that states the answer, for an instruct model; the response is one line with the answer
    (TokenSkip)."""


class Pick(Enum):
    """Choice among several right answers to one question."""

    shortest = "shortest"
    """The answer with the fewest thinking tokens."""
    first = "first"
    """The answer that was sampled first."""


@dataclass(kw_only=True, slots=True)
class SelfWrittenDataConfig(DataConfig):
    """A model answers training questions; right answers are kept (TokenSkip, arXiv 2502.12067, section 3.2)."""

    questions: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    """Training questions with gold answers; choose with questions@data.questions=NAME."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Backend of the model; choose with generation@data.generation=server."""
    writer: InputPath = BASE_WEIGHTS
    """Weights that answer: base (the run's model), original (train.py: a student of the whole traces of `taught`, as
    Original is one of the run's), the folder of a PEFT adapter, a whole model or an artifact of the stage sft, or the
    hub id of an adapter. A server is asked to load an adapter."""
    taught: DataConfig | None = None
    """Traces that the writer is trained on with writer=original; choose with data@data.taught=NAME. Not used
    otherwise."""
    max_new_tokens: Count = MISSING
    """Budget of one answer, in the model's tokens."""
    samples: Count = 1
    """Answers per question; with several, data.generation.temperature null is 0.6 and top_p null is 0.95 (CTS)."""
    pick: Pick = Pick.shortest
    """Choice among several right answers to one question: shortest, first."""
    max_thinking_tokens: Count | None = None
    """Longest thinking to keep, in the model's tokens (TokenSkip: 500); null keeps all."""
    format: Format = Format.auto
    """Division of an output into thinking and response: auto, tags, answer_line."""

    @property
    def extractor(self) -> Extractor:
        """See `DataConfig`."""
        return self.questions.extractor

    def validate(self, key: str) -> None:
        """Refuse equal answers to a question, questions without answers, and a writer without traces to learn from."""
        if self.writer == ORIGINAL_WEIGHTS:
            allowed = "traces that were not written for it, e.g. data@data.taught=planted"
            got = "null" if self.taught is None else self.taught.name
            require(f"{key}.taught", got, not isinstance(self.taught, SelfWrittenDataConfig | None), allowed)
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


@dataclass(kw_only=True, slots=True)
class TruthConfig:
    """Traces with known importance of their parts (config group `truth`)."""

    name: str = MISSING
    """Name of the truth, shown in tables."""
    limit: Count | None = None
    """Number of usable rows to read; null reads all."""
    strict: bool = False
    """Stop at the first bad row of a file instead of dropping and counting it."""


@dataclass(kw_only=True, slots=True)
class PlantedTruthConfig(TruthConfig):
    """Built-in traces with a label for every character; no problem has the numbers of a training trace."""

    num_traces: Count = MISSING
    """Traces to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    length: Length = Length.short
    """short (two steps, 120 to 180 tokens of thinking), long (five, about 450) or very_long (twelve, up to 1,500)."""
    seed: Natural = 3_000_017
    """Seed of the generator. With any seed, no problem has the numbers of a training trace."""


class Importance(Enum):
    """Measured importance of a sentence (Thought Anchors, arXiv 2506.19143)."""

    counterfactual_importance_kl = "counterfactual_importance_kl"
    """Shift of the answers if the sentence is replaced by one with another meaning; the paper's measure."""
    resampling_importance_kl = "resampling_importance_kl"
    """Shift of the answers if the sentence is sampled again, whatever its meaning."""
    forced_importance_kl = "forced_importance_kl"
    """Shift of the answers if the model has to answer right after the sentence."""


@dataclass(kw_only=True, slots=True)
class ThoughtAnchorsConfig(TruthConfig):
    """Sentences whose importance was measured by resampling."""

    path: InputPath = MISSING
    """File, folder or pattern, as for data=jsonl."""
    importance: Importance = Importance.counterfactual_importance_kl
    """Measure to use."""


class Redundant(Enum):
    """Definition of the redundant steps of a PRMBench row."""

    inserted = "inserted"
    """Steps that the original solution does not have; edited steps are left out of the metrics."""
    error_steps = "error_steps"
    """Steps named by the annotation of the benchmark."""


@dataclass(kw_only=True, slots=True)
class PrmbenchConfig(TruthConfig):
    """Solutions into which redundant steps were inserted."""

    path: InputPath = MISSING
    """File, folder or pattern, as for data=jsonl."""
    redundant: Redundant = Redundant.inserted
    """Definition of the redundant steps."""
