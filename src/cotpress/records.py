"""What the stages hand over. Read this first.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report
    Trace    Valuable    checkpoint    Scored    Compressed   adapter  Prediction   tables,
             Trace                     Trace     Trace                              plots, HTML

A stage reads the artifacts of earlier stages and writes one of its own; no stage calls another. All character
positions count Unicode code points of `thinking`, half open: `thinking[start:end]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Unit(Enum):
    """What is scored, kept or dropped as one."""

    token = "token"
    word = "word"
    """A number, a word of letters, a LaTeX command or another single sign."""
    step = "step"
    """A sentence or a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A labelled stretch of a thinking text (built-in data only).

    Attributes:
        start: First character.
        end: One past the last character.
        kind: What was planted there, e.g. `operand`, `result`, `hesitation`, `double_check`.
        essential: True if the answer cannot be derived without it.
    """

    start: int
    end: int
    kind: str
    essential: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with its gold answer: what evaluation asks.

    Attributes:
        question: The user's turn, as it is asked.
        answer: Gold answer; empty if `unanswerable`.
        extractor: Name of the `Extractor` that finds the answer in an output.
        unanswerable: The question has no answer; right is to say so.
    """

    id: str
    question: str
    answer: str
    family: str = ""
    extractor: str = "math"
    unanswerable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A solved problem with its chain of thought: what everything else starts from.

    Attributes:
        id: Unique within a data artifact.
        question: The user's text.
        thinking: The chain of thought, without its opening and closing tags.
        response: The written solution after the thinking; may be empty; never compressed.
        answer: Gold answer; may be empty.
        split: `train` or `validation`.
        family: Problem family of the built-in data, else empty.
        spans: Planted labels covering `thinking`, else empty.
    """

    id: str
    question: str
    thinking: str
    response: str
    answer: str
    split: str = "train"
    family: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceImportance:
    """What one sentence of a thinking text was measured to be worth.

    Attributes:
        id: The trace that it stands in.
        start: First character.
        end: One past the last character.
        importance: Finite; higher = more important.
    """

    id: str
    start: int
    end: int
    importance: float


class TruthKind(Enum):
    """What is known about the traces that scorers are judged on."""

    tokens = "tokens"
    """Every character is labelled: essential or planted redundancy of some kind (`Trace.spans`)."""
    steps = "steps"
    """Every step is labelled: original, inserted, or edited, which is neither (`Trace.spans`)."""
    importance = "importance"
    """Every sentence has a measured importance (`SentenceImportance`)."""


EDITED_STEP = "edited"
"""Kind of a step that is neither original nor inserted, so that nothing is known about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuableTrace:
    """A trace with the part of its thinking that is worth keeping, found by a distill extractor.

    Attributes:
        valuable: Character ranges of `thinking`, sorted and disjoint.
    """

    id: str
    question: str
    thinking: str
    response: str
    answer: str
    valuable: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTrace:
    """What a language model predicts for the thinking tokens of a trace, under one condition.

    Attributes:
        token_ids: int32 `[n]`, the thinking in the model's own tokenizer; empty if it was refused.
        offsets: int32 `[n, 2]`, characters of `thinking` that each token stands for.
        logprob: float32 `[n]`, log p(token | everything before it) in nats.
        entropy: float32 `[n]`, entropy of that prediction in nats.
        rank: int32 `[n]`, number of words that the model finds likelier; 0 is its first choice.
        in_windows: True if the thinking was read in overlapping windows.
        refusal: Reason why it was not read; empty if it was.
        tokenizer: Fingerprint of the tokenizer that made `token_ids`.
    """

    id: str
    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    logprob: NDArray[np.float32]
    entropy: NDArray[np.float32]
    rank: NDArray[np.int32]
    in_windows: bool
    refusal: str
    tokenizer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTrace:
    """One finite importance per thinking token; higher = keep. Independent of any ratio.

    Attributes:
        token_ids: int32 `[n]`, the thinking in the scorer's own tokenizer.
        offsets: int32 `[n, 2]`, characters of `thinking` that each token stands for.
        scores: float32 `[n]`.
        tokenizer: Fingerprint of the tokenizer that made `token_ids`.
        scorer: Name of the scorer.
    """

    id: str
    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    scores: NDArray[np.float32]
    tokenizer: str
    scorer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedTrace:
    """A trace whose thinking was cut to a ratio, counted in the student's tokens.

    Attributes:
        compressed_thinking: The kept characters, in order; of the text column if one was compressed (`data.field`).
        token_ids: int32 `[num_kept_tokens]`, the kept tokens as the student is trained on them.
        keep_mask: bool `[num_tokens]` over the student's tokens of the whole thinking.
        target_ratio: Asked kept fraction, in (0, 1].
        actual_ratio: `num_kept_tokens / num_tokens`.
        marker_ratio: Ratio to announce in the prompt by the control marker, or None for no marker.
        protection_exceeded: True if tokens that stay whatever their score (protected, or held by a limit on deletions)
            alone were more than the ratio allows.
    """

    id: str
    question: str
    compressed_thinking: str
    response: str
    answer: str
    split: str
    token_ids: NDArray[np.int32]
    keep_mask: NDArray[np.bool_]
    num_tokens: int
    num_kept_tokens: int
    target_ratio: float
    actual_ratio: float
    marker_ratio: float | None = None
    protection_exceeded: bool = False


def num_to_keep(num_tokens: int, ratio: float) -> int:
    """Tokens that a ratio in (0, 1] leaves of `num_tokens`, in `[0, num_tokens]`."""
    return min(round(ratio * num_tokens), num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTrace:
    """The order in which a trace's thinking tokens are deleted: what it would be at every ratio.

    Attributes:
        offsets: int32 `[n, 2]`, characters of `thinking` that each of the student's tokens stands for.
        scores: float32 `[n]`, what the scorer said about each of them.
        places: int32 `[n]`, a permutation: the token of place 0 is deleted last.
        num_held: Tokens that stay at every ratio; they have the first places.
    """

    id: str
    offsets: NDArray[np.int32]
    scores: NDArray[np.float32]
    places: NDArray[np.int32]
    num_held: int

    def kept(self, ratio: float) -> NDArray[np.bool_]:
        """Which tokens stay at a ratio in (0, 1], bool `[n]`."""
        return self.places < max(num_to_keep(len(self.places), ratio), self.num_held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One generated solution and its verdict.

    Attributes:
        system: Row of the results table, e.g. `Original` or `cts`.
        ratio: Asked kept fraction of the student that wrote it.
        output: Generated text, without the prompt.
        predicted: Extracted answer, empty if there was none.
        declined: Whether the output says that the question has no answer.
        num_tokens: Generated tokens in the student's tokenizer, end token not counted.
        num_thinking_tokens: The part of them before the thinking was closed, what opened it included; 0 from a model
            that does not think.
        finish_reason: `stop` (the model ended), `length` (budget or context ended it) or `refused` (the prompt left no
            room in the context).
        latency_s: Seconds of wall time: of its request to a server, or its share of the forwards that it was part of.
        sample: Index of the sample for this question.
        closed: False if a thinking that was begun was never closed; models that do not think between tags begin none.
        reference_tokens: Tokens of the output in the reference tokenizer, if one was asked for.
    """

    id: str
    family: str
    question: str
    answer: str
    system: str
    ratio: float
    output: str
    predicted: str
    correct: bool
    declined: bool = False
    num_tokens: int
    num_thinking_tokens: int
    finish_reason: str
    latency_s: float
    sample: int = 0
    closed: bool = True
    reference_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A point estimate with a two-sided confidence interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAccuracy:
    """Accuracy when an answer only counts if it ended within `budget` tokens: that of a run with this budget.

    Attributes:
        budget: Generated tokens, the end token included, as in `max_new_tokens`.
        accuracy: Fraction correct within it.
        difference: Minus that of Original at the same budget, on the same questions, paired; None without Original.
    """

    budget: int
    accuracy: Interval
    difference: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemResult:
    """One row of the results table. What is None was not measured.

    Attributes:
        accuracy: Fraction correct (avg@k for k samples per question), with a 95 % interval over questions.
        mean_tokens: Generated tokens per answer, with a 95 % interval.
        target_ratio: Asked kept fraction of the training thinking.
        actual_ratio: Reached kept fraction of the training thinking (tokens over tokens); None if it is not known. With
            mixed ratios, that of the traces whose marker announces `target_ratio`; None if no trace drew it.
        generated_ratio: ActRatio: generated tokens relative to those of `generated_against` on the same questions; None
            if that wrote none.
        generated_against: `ratio 1` (the same student asked for all of its thinking; students with a control marker)
            or `Original` (students of a single ratio); empty without either.
        generated_thinking_ratio: The same over thinking tokens only.
        accuracy_difference: Accuracy minus that of Original on the same questions, paired; None for Original itself and
            without it.
        truncation_rate: Fraction of answers ended by the token budget.
        seconds_per_sample: Wall time per answer.
        num_samples: Most samples of one question.
        num_training_rows: Traces that its student learnt from; None for what was not trained here.
        standard_error: Standard error of the accuracy, clustered by question; None for a single question.
        pass_at_k: Probability that one of k answers is correct, for k = 1 .. num_samples.
        training_reduction: Share of the thinking tokens that training was spared, `1 - actual_ratio`; with mixed ratios
            that of the whole mixture, in every row of its student.
        inference_reduction: Share of Original's generated tokens that was not generated; negative if there were more,
            None if Original wrote none.
        loop_rate: Fraction of answers that end in a repetition.
        unclosed_rate: Fraction of answers that never close their thinking.
        mean_thinking_tokens: Generated tokens before the thinking was closed, per answer.
        mean_answer_tokens: The others, per answer.
        mean_reference_tokens: Generated tokens per answer in the reference tokenizer, with an interval.
        accuracy_at_budgets: Accuracy at the same token budgets for all systems of a run.
    """

    system: str
    target_ratio: float
    actual_ratio: float | None
    accuracy: Interval
    mean_tokens: Interval
    truncation_rate: float
    seconds_per_sample: float
    generated_ratio: float | None = None
    generated_against: str = ""
    generated_thinking_ratio: float | None = None
    accuracy_difference: Interval | None = None
    num_samples: int = 1
    standard_error: float | None = None
    pass_at_k: tuple[Interval, ...] = ()
    training_reduction: float | None = None
    inference_reduction: float | None = None
    loop_rate: float | None = None
    unclosed_rate: float | None = None
    mean_thinking_tokens: float | None = None
    mean_answer_tokens: float | None = None
    mean_reference_tokens: Interval | None = None
    accuracy_at_budgets: tuple[BudgetAccuracy, ...] = ()
    artifacts: dict[str, str] = field(default_factory=dict)
    num_training_rows: int | None = None

    @property
    def lengthened(self) -> bool:
        """True if the student writes more than what it is compared with: the compression failed in generation."""
        return self.generated_ratio is not None and self.generated_ratio > 1
