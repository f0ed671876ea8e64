"""Records that the stages exchange, and the names of the files that hold them. Read this first.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report
    Trace    Valuable    checkpoint    Scored    Compressed   adapter  Prediction   tables,
             Trace                     Trace     Trace                              plots, HTML

A stage reads the artifacts of earlier stages and writes one of its own; no stage calls another. All character
positions count Unicode code points of `thinking`, half open: `thinking[start:end]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


TRACES_FILE = "traces.parquet"  # Trace, of the stages data and truth
IMPORTANCE_FILE = "importance.parquet"  # SentenceImportance, of the stage truth
PROBLEMS_FILE = "problems.parquet"  # Problem, of the stage benchmark
VALUABLE_FILE = "valuable.parquet"  # ValuableTrace, of the stage distill
SCORES_FILE = "scores.parquet"  # ScoredTrace, of the stages score and decide
REWRITTEN_FILE = "rewritten.parquet"  # RewrittenTrace, of the stage decide
COMPRESSED_FILE = "compressed.parquet"  # CompressedTrace, of the stage compress
RANKING_FILE = "ranking.parquet"  # RankedTrace, of the stage compress
SHARES_FILE = "shares.parquet"  # SharedTrace, of the stage compress
TRAIN_LOG_FILE = "train_log.csv"  # loss by optimizer step, of the stages that train
VALIDATION_FILE = "validation_log.csv"  # metrics of validations by optimizer step, of students that were validated
PREDICTIONS_FILE = "predictions.parquet"  # Prediction, of the stage evaluate and of run directories
RESULTS_FILE, CONFIG_FILE, FAILURE_FILE = "results.json", "config.yaml", "failure.json"  # of run directories
STUDENTS_FILE = "students.json"  # of a run directory: its trained students, and all that asking them needs
UNTIL_FILES = "until-*.json"  # of a run directory: one for each stage before sft that the run has ended after


class Unit(Enum):
    """Stretch of text that is scored, kept or dropped as one."""

    token = "token"
    word = "word"
    """A number, a word of letters, a LaTeX command or another single sign."""
    step = "step"
    """A sentence or a line."""
    paragraph = "paragraph"
    """The text up to a blank line."""
    segment = "segment"
    """Steps up to the next one that turns elsewhere: it opens with `Wait`, `Alternatively` or the like."""


SEGMENT_STARTS = (
    "Wait", "But wait", "No wait", "Oh wait", "Wait no", "Hold on", "Wait hold on", "Hmm", "Hmmm", "Oh", "Ah",
    "Actually", "But actually", "However", "Alternatively", "An alternative", "Another way", "Another approach",
    "Another thought", "Another idea", "Another angle", "On the other hand", "On second thought", "Going back",
    "Let me check", "Let me double-check", "Let me verify", "Let me confirm", "Let me make sure", "Let me recheck",
    "Let me reconsider", "Let me think again", "Let me start over", "Let me go back", "Let me try another",
    "But let me", "Let's check", "Let's double-check", "Let's verify", "Let's try another", "But let's",
    "Just to be sure", "Just to make sure", "Just to double-check", "But just to", "To double-check", "To verify",
)  # fmt: skip
"""Openings of segments, unless the configuration lists others (`compression.segment_starts`).

They follow the words that others split at or suppress (Alternatively: arXiv 2501.18585; Wait, Hmm, However, Oh, Ah,
Another, Check, Verify and others: NoWait, arXiv 2506.08343). `But`, `Maybe`, `Now` and `Let me` are left out: alone
they open many steps that go on with the same thought.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A labelled stretch of a thinking text (built-in data only)."""

    start: int
    end: int
    kind: str  # planted content, e.g. `operand`, `result`, `hesitation`, `double_check`
    essential: bool  # true if the answer cannot be derived without it


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question of a benchmark with its gold answer."""

    id: str
    question: str
    answer: str
    family: str = ""
    extractor: str = "math"  # name of the `Extractor` that finds the answer in an output
    unanswerable: bool = False  # the question has no answer (`answer` is empty), and saying so is correct


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A solved problem with its chain of thought, the input of all other stages."""

    id: str  # unique within a data artifact
    question: str
    thinking: str  # the chain of thought, without its opening and closing tags
    response: str  # the written solution after the thinking; may be empty; never compressed
    answer: str  # gold answer; may be empty
    split: str = "train"
    family: str = ""  # problem family of the built-in data
    spans: tuple[Span, ...] = ()  # planted labels covering `thinking`


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceImportance:
    """Measured importance of one sentence of the thinking of trace `id`: finite, higher = more important."""

    id: str
    start: int
    end: int
    importance: float


class TruthKind(Enum):
    """Kind of knowledge about the traces that scorers are judged on."""

    tokens = "tokens"  # every character is labelled: essential or planted redundancy of some kind (`Trace.spans`)
    steps = "steps"  # every step is labelled: original, inserted, or edited, which counts as neither (`Trace.spans`)
    importance = "importance"  # every sentence has a measured importance (`SentenceImportance`)


EDITED_STEP = "edited"  # kind of a step that is neither original nor inserted and is not judged


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuableTrace:
    """A trace with the `valuable` character ranges of its thinking, sorted and disjoint, as an extractor marks them."""

    id: str
    question: str
    thinking: str
    response: str
    answer: str
    valuable: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTrace:
    """Prediction of a trace's thinking tokens by a language model, under one condition."""

    id: str
    token_ids: NDArray[np.int32]  # `[n]`, the thinking in the model's own tokenizer; empty if it was refused
    offsets: NDArray[np.int32]  # `[n, 2]`, characters of `thinking` that each token stands for
    logprob: NDArray[np.float32]  # `[n]`, log p(token | everything before it) in nats
    entropy: NDArray[np.float32]  # `[n]`, entropy of that prediction in nats
    rank: NDArray[np.int32]  # `[n]`, number of vocabulary entries that are likelier; 0 is the model's first choice
    in_windows: bool  # true if the thinking was read in overlapping windows
    refusal: str  # reason why it was not read; empty if it was
    tokenizer: str  # fingerprint of the tokenizer that made `token_ids`


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTrace:
    """One finite importance per thinking token; higher = keep. Independent of any ratio."""

    id: str
    token_ids: NDArray[np.int32]  # `[n]`, the thinking in the scorer's tokenizer
    offsets: NDArray[np.int32]  # `[n, 2]`, characters of `thinking` that each token stands for
    scores: NDArray[np.float32]  # `[n]`
    tokenizer: str  # fingerprint of the tokenizer that made `token_ids`
    scorer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrittenTrace(ScoredTrace):
    """A trace that a foreign compressor has rewritten at one ratio: its text need not consist of the original's.

    The scores are 1 for tokens that stay and 0 for others. Characters that belong to no token, such as white space in
    some tokenizers, have none.
    """

    text: str  # the compressed thinking
    ratio: float  # ratio that was asked for; at 1 the text is the thinking itself


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedTrace:
    """A trace whose thinking was cut to a ratio, counted in the student's tokens, or to a length of its own.

    With `mode=mask_loss` the thinking is whole, and `loss_weights` say which of its tokens have a loss; `target_ratio`
    is then the ratio asked for of these weights. With `mode=first_solution` it is 1.

    With `selection=llmlingua2_compat` the text is LLMLingua's, `token_ids` are those of this text, and the mask marks
    the tokens of the original that are still in it.
    """

    id: str
    question: str
    compressed_thinking: str  # text of `token_ids`: kept characters in order, or of the column `data.field`
    response: str
    answer: str
    split: str
    # The tokens that the student is trained on: `[num_kept_tokens]`, the kept ones, or those of the text anew
    token_ids: NDArray[np.int32]
    keep_mask: NDArray[np.bool_]  # `[num_tokens]` over the student's tokens of the whole thinking
    num_tokens: int
    num_kept_tokens: int
    target_ratio: float
    actual_ratio: float
    marker_ratio: float | None = None  # ratio that the control marker in the prompt states; None for no marker
    # True if protected tokens and those held by the limit on deletions alone exceed the ratio
    protection_exceeded: bool = False
    # `[len(token_ids)]`, weight of the loss of each token, in [0, 1]; None if all have a loss alike
    loss_weights: NDArray[np.float32] | None = None
    # True if the thinking states the right answer, and so ends there; None if no statement was looked for
    solution_found: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One generated solution and its verdict."""

    id: str
    family: str
    question: str
    answer: str
    system: str  # label of its system, e.g. `Original` or `cts`
    ratio: float  # requested kept fraction of the student that wrote it
    output: str
    predicted: str  # answer extracted from `output`, empty if there was none
    correct: bool
    declined: bool = False  # true if the output says that the question has no answer
    num_tokens: int  # generated tokens in the student's tokenizer, end token not counted
    num_thinking_tokens: int  # those before the thinking was closed, the opening tag included; 0 without thinking
    # `stop` (end token), `length` (budget or context exhausted) or `refused` (the prompt left no room in the context)
    finish_reason: str
    latency_s: float  # wall time in seconds of the request to a server, or its share of the batches that it was part of
    sample: int = 0  # index of the sample for this question
    closed: bool = True  # false if a thinking was opened and never closed; always True for models without thinking tags
    reference_tokens: int | None = None  # tokens of the output in the reference tokenizer, if one is configured
    # Tokens of the output before the line with the answer, tokenized again (TokenSkip's count); None in older files
    num_cot_tokens: int | None = None


class Origin(Enum):
    """Kind of a system."""

    scorer = "scorer"  # student trained on traces that were compressed, by a scorer or at their first solution
    original = "original"  # student trained on the whole traces
    shortest = "shortest"  # student trained on the shortest right ones of several answers to the same questions
    random = "random"  # student trained on traces that were cut at random, otherwise as those of the scorer
    base = "base"  # model without training
    baseline = "baseline"  # model prompted or cut off to write less, without training for it
    given = "given"  # model or adapter that the user names


ON_BASE, MIXED = "Base", "mixed"
"""Variants of a system: a baseline on the untuned model; one student for several ratios."""
MASK_LOSS, SOFT_WEIGHTS = "mask_loss", "soft_weights"
"""Variants of a system: students of the whole thinking, whose tokens have a loss or none, or weights of it."""
_BASELINE_NAMES = frozenset({"beconcise", "onlynumbers", "abbrewords", "lc-prompt", "truncation"})


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Identity of a system whose answers are compared with those of others."""

    name: str  # name of the scorer, of the baseline, or of the given model or adapter
    origin: Origin
    ratio: float | None = None  # requested kept fraction; None for several, or where no ratio applies
    variant: str = ""  # `ON_BASE`, `MIXED`, `MASK_LOSS`, `SOFT_WEIGHTS` or empty
    # Keys and values that distinguish it from other systems of a table; an empty key shows the value alone.
    settings: tuple[tuple[str, str], ...] = ()
    seed: int | None = None  # seed, where a table holds several

    @property
    def label(self) -> str:
        """Text for tables, figures and logs, without the ratio."""
        settings = "".join(f" {key}={value}" if key else f" {value}" for key, value in self.settings)
        seed = "" if self.seed is None else f" seed={self.seed}"
        return f"{self.name}{f' ({self.variant})' if self.variant else ''}{settings}{seed}"

    @property
    def title(self) -> str:
        """Label with the ratio, unless that is 1: `cts 0.5`."""
        return self.label if self.ratio is None or self.ratio >= 1 else f"{self.label} {self.ratio:g}"

    @property
    def has_own_length(self) -> bool:
        """True for a student whose training traces have a length of their own, which no ratio asked for."""
        return self.origin is Origin.scorer and self.ratio is None and self.variant != MIXED

    @property
    def is_baseline(self) -> bool:
        """True if the scorer of the run takes no part in the system."""
        return self.origin not in (Origin.scorer, Origin.given)

    @property
    def is_untuned(self) -> bool:
        """True if nothing was trained for the system."""
        return self.origin is Origin.base or self.variant == ON_BASE

    @classmethod
    def from_label(cls, label: str) -> System:
        """Read the label of a row of an earlier release, which stored nothing else."""
        name, variant = label, ""
        for known in (ON_BASE, MIXED, MASK_LOSS, SOFT_WEIGHTS):
            if label.endswith(f" ({known})"):
                name, variant = label.removesuffix(f" ({known})"), known
        if name in (ORIGINAL.name, BASE.name):
            return ORIGINAL if name == ORIGINAL.name else BASE
        origin = Origin.baseline if name.lower() in _BASELINE_NAMES else Origin.scorer
        return cls(name=name, origin=origin, variant=variant)


ORIGINAL = System(name="Original", origin=Origin.original, ratio=1.0)
BASE = System(name="Base", origin=Origin.base, ratio=1.0)
SHORTEST = System(name="Shortest", origin=Origin.shortest, ratio=1.0)
RANDOM = "Random"
"""Name of the student of traces that were cut at random."""


AT_RATIO_ONE = "ratio 1"
"""`SystemResult.generated_against` of rows that are compared with the same student or model at ratio 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A point estimate with a two-sided confidence interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAccuracy:
    """Accuracy if an answer only counts when it ended within `budget` tokens, its end token included.

    `difference` is the paired difference from Original at the same budget on the same questions.
    """

    budget: int
    accuracy: Interval
    difference: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Traces that a student was trained on."""

    num_traces: int  # training traces of its system, before those that are too long are left out
    num_alone: int  # traces that it would be trained on if it were compared with no other system
    num_cut: int  # traces whose sequences were cut, so that their end token is missing
    max_tokens: int  # most tokens of a training sequence
    digest: str  # hash of the ids of the traces that it was trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemResult:
    """One row of the results table; None stands for numbers that were not measured or are not defined."""

    system: str  # label of the system
    target_ratio: float  # requested kept fraction of the training thinking
    # Reached kept fraction of the training thinking (tokens over tokens); with mixed ratios, of the traces whose marker
    # states `target_ratio`
    actual_ratio: float | None
    accuracy: Interval  # fraction correct (avg@k for k samples per question), with an interval over questions
    mean_tokens: Interval  # generated tokens per answer
    truncation_rate: float  # fraction of answers cut off by the token budget
    seconds_per_sample: float
    # ActRatio, generated tokens relative to those of `generated_against` on the same questions
    generated_ratio: float | None = None
    # `ratio 1` (the same student at ratio 1; students with a control marker) or `Original` (students of a single
    # ratio); empty without either
    generated_against: str = ""
    generated_thinking_ratio: float | None = None  # the same over thinking tokens only
    accuracy_difference: Interval | None = None  # paired difference in accuracy from Original on the same questions
    num_samples: int = 1  # maximum number of samples of one question
    standard_error: float | None = None  # standard error of the accuracy, clustered by question
    pass_at_k: tuple[Interval, ...] = ()  # probability that one of k answers is correct, for k = 1 .. num_samples
    # Share of the thinking tokens that the compression removed from training, `1 - actual_ratio`; with mixed ratios of
    # the whole mixture, in every row of its student
    training_reduction: float | None = None
    # Share of Original's generated tokens that was saved; negative if there were more
    inference_reduction: float | None = None
    loop_rate: float | None = None  # fraction of answers that end in a repetition
    unclosed_rate: float | None = None  # fraction of answers that never close their thinking
    mean_thinking_tokens: float | None = None  # generated tokens before the thinking was closed, per answer
    mean_answer_tokens: float | None = None  # other generated tokens, per answer
    mean_reference_tokens: Interval | None = None  # generated tokens per answer in the reference tokenizer
    mean_cot_tokens: Interval | None = None  # tokens per answer before the line with the answer, as TokenSkip counts
    accuracy_at_budgets: tuple[BudgetAccuracy, ...] = ()  # accuracy at the same token budgets for all systems of a run
    artifacts: dict[str, str] = field(default_factory=dict)
    num_training_rows: int | None = None  # training traces of its student
    training_set: TrainingSet | None = None  # more about these traces; None in results of earlier releases
    identity: System | None = None  # the system itself; None in results of earlier releases, which have its label alone
    # Mean weight of the loss over the thinking tokens that it was trained on; None where all of them have a loss
    loss_share: float | None = None

    @property
    def source(self) -> System:
        """Identity of the system, read from the label where no other is stored."""
        return self.identity or replace(System.from_label(self.system), ratio=self.target_ratio)

    @property
    def has_own_length(self) -> bool:
        """True for a student whose training traces have a length of their own, which no ratio asked for."""
        return self.identity is not None and self.identity.has_own_length

    @property
    def is_compressed(self) -> bool:
        """True if the row is of a ratio below 1, or of traces that were shortened to a length of their own."""
        return self.target_ratio < 1 or self.has_own_length

    @property
    def asked(self) -> str:
        """Ratio asked for, as a text; `own` for traces with a length of their own."""
        return "own" if self.has_own_length else f"{self.target_ratio:g}"

    @property
    def lengthened(self) -> bool:
        """True if the student generates more tokens than the system that it is compared with."""
        return self.generated_ratio is not None and self.generated_ratio > 1
