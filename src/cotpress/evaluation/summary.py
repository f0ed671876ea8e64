"""Summary of judged answers: one row of the results table.

Loops: an answer loops if its last pieces consist of one n-gram of at most `LONGEST` pieces, repeated at least `REPEATS`
times and over at least `SHORTEST` pieces. A piece is a word, a digit or another sign. Only the end counts: a student
that is stuck repeats until its budget ends. Repetitions that count upwards (`Step 12 ... Step 13 ...`) are not exact
and not detected.

Reference tokens: outputs are also counted in the tokenizer `evaluation.reference_tokenizer` (CTS counts those of every
model in that of Qwen2.5-7B-Instruct). They are counted when results are read, so another tokenizer generates nothing.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cotpress.errors import ConfigError, DataError, ModelError
from cotpress.modeling.foreign import reading
from cotpress.modeling.sources import model_directory
from cotpress.records import AT_RATIO_ONE, BudgetAccuracy, Interval, Prediction, SystemResult
from cotpress.statistics import (
    accuracy_interval,
    mean_count_interval,
    paired_accuracy_difference,
    pass_at_k_intervals,
    question_means,
    standard_error,
    token_ratio,
)

REPEATS = 4  # fewest repetitions of the n-gram at the end
SHORTEST = 40  # fewest pieces that the repetitions cover together; four times `ha` is no loop
LONGEST = 200  # longest n-gram, in pieces: a paragraph

_PIECE = re.compile(r"\d|[^\W\d]{1,16}|[^\w\s]")
_TAIL_CHARACTERS = 12 * REPEATS * LONGEST  # characters of the end that are searched; 12 per piece is far above the mean


def is_loop(items: Sequence[Hashable]) -> bool:
    """True if a sequence of tokens, words or other items ends in a loop."""
    tail = items[-REPEATS * LONGEST :]
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(item, len(numbers)) for item in tail], dtype=np.int32)[::-1]
    for period in range(1, min(LONGEST, len(codes) // REPEATS) + 1):
        covered = max(REPEATS * period, SHORTEST)
        if covered <= len(codes) and np.array_equal(codes[: covered - period], codes[period:covered]):
            return True
    return False


def text_loops(text: str) -> bool:
    """True if a text ends in a loop, independent of any tokenizer; the last piece may be cut off by the budget."""
    pieces = _PIECE.findall(text[-_TAIL_CHARACTERS:])
    return is_loop(pieces) or is_loop(pieces[:-1])


CountTokens = Callable[[str], int]


@functools.cache
def token_counter(tokenizer: str | None) -> CountTokens | None:
    """A function that counts the tokens of a text without special tokens; None without a tokenizer.

    Raises:
        ConfigError: The tokenizer cannot be loaded.
    """
    if tokenizer is None:
        return None
    from transformers import AutoTokenizer

    try:
        with reading("no tokenizer can be loaded"):
            folder = model_directory(tokenizer, weights=False, key="evaluation.reference_tokenizer")
            loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ModelError as error:
        raise ConfigError(
            f"evaluation.reference_tokenizer: got '{tokenizer}', which cannot be loaded: {error}. Allowed: a hub id or "
            "a folder that holds a tokenizer. Fix: download it once where there is a network, or give null to count "
            "in the student's own tokenizer only"
        ) from error
    return lambda text: len(loaded(text, add_special_tokens=False, verbose=False)["input_ids"])


def with_reference_tokens(predictions: Sequence[Prediction], count: CountTokens | None) -> list[Prediction]:
    """The predictions with `reference_tokens`; unchanged if there is no counter."""
    if count is None:
        return list(predictions)
    return [replace(p, reference_tokens=count(p.output)) for p in predictions]


def summarize(
    predictions: Sequence[Prediction],
    system: str,
    ratio: float,
    actual_ratio: float | None,
    original: Sequence[Prediction] | None,
    *,
    training_ratio: float | None = None,
    ratio_one: Sequence[Prediction] | None = None,
    budgets: Sequence[int] = (),
    confidence: float = 0.95,
    artifacts: Mapping[str, str] | None = None,
) -> SystemResult:
    """One row of the results table; see `SystemResult` for its fields.

    `original` and `ratio_one` are the answers to the same questions of the student trained on uncompressed traces, and
    of the same student at ratio 1. Only a student with a control marker has the latter; its ActRatio is relative to
    them (TokenSkip), that of other students to `original`. `training_ratio` is the kept fraction of all training
    thinking, where that is not `actual_ratio` (mixed ratios). For `budgets` see `matched_budgets`.

    Raises:
        DataError: There are no predictions, or none has a question in common with `original`.
    """
    if not predictions:
        raise DataError(f"{system}: no predictions to summarize. Fix: benchmark.limit must leave at least one problem")
    against, baseline = ("Original", original) if ratio_one is None else (AT_RATIO_ONE, ratio_one)
    other = None if original is predictions else original  # no difference of Original from itself
    return SystemResult(
        system=system,
        target_ratio=ratio,
        actual_ratio=actual_ratio,
        accuracy=accuracy_interval(predictions, confidence),
        mean_tokens=mean_count_interval(question_means(predictions, lambda p: float(p.num_tokens)), confidence),
        truncation_rate=_mean(p.finish_reason == "length" for p in predictions),
        seconds_per_sample=_mean(p.latency_s for p in predictions),
        generated_ratio=None if baseline is None else token_ratio(predictions, baseline),
        generated_against="" if baseline is None else against,
        generated_thinking_ratio=None
        if baseline is None
        else token_ratio(predictions, baseline, lambda p: float(p.num_thinking_tokens)),
        accuracy_difference=None if other is None else paired_accuracy_difference(predictions, other, confidence),
        num_samples=max(Counter(p.id for p in predictions).values()),
        standard_error=standard_error(question_means(predictions, lambda p: float(p.correct))),
        pass_at_k=pass_at_k_intervals(predictions, confidence),
        training_reduction=_reduction(actual_ratio if training_ratio is None else training_ratio),
        inference_reduction=_reduction(None if original is None else token_ratio(predictions, original)),
        loop_rate=_mean(text_loops(p.output) for p in predictions),
        unclosed_rate=_mean(not p.closed for p in predictions),
        mean_thinking_tokens=_mean(p.num_thinking_tokens for p in predictions),
        mean_answer_tokens=_mean(p.num_tokens - p.num_thinking_tokens for p in predictions),
        mean_reference_tokens=_counted(predictions, lambda p: p.reference_tokens, confidence),
        mean_cot_tokens=_counted(predictions, lambda p: p.num_cot_tokens, confidence),
        accuracy_at_budgets=tuple(
            BudgetAccuracy(
                budget=budget,
                accuracy=accuracy_interval(predictions, confidence, budget=budget),
                difference=None
                if other is None
                else paired_accuracy_difference(predictions, other, confidence, budget=budget),
            )
            for budget in budgets
        ),
        artifacts=dict(artifacts or {}),
    )


def _counted(
    predictions: Sequence[Prediction], count: Callable[[Prediction], int | None], confidence: float
) -> Interval | None:
    """The mean of a count that predictions may lack; None if one does."""
    if any(count(p) is None for p in predictions):
        return None
    return mean_count_interval(question_means(predictions, lambda p: float(count(p) or 0)), confidence)


def _reduction(ratio: float | None) -> float | None:
    return None if ratio is None else 1 - ratio


def matched_budgets(configured: Sequence[int], original: Sequence[Prediction] | None) -> list[int]:
    """The token budgets at which all systems of a run are compared, ascending.

    At a budget b an answer counts only if it is correct and has at most b tokens, the end token included: the accuracy
    that `max_new_tokens=b` would have given. If none are configured (`evaluation.budgets`), they are the quartiles
    (25, 50, 75 %) of the tokens of Original's answers, end token included.
    """
    if configured or not original:
        return sorted(set(configured))
    quartiles = np.quantile([p.num_tokens + 1 for p in original], (0.25, 0.5, 0.75))
    return sorted({math.ceil(q) for q in quartiles})


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean([*numbers]))
