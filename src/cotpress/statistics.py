"""Uncertainty of the results: intervals over questions, paired differences, pass@k.

Several samples of one question are not independent, so the question is the unit: its samples are averaged first, and
the spread between questions gives the error (clustered standard errors, arXiv 2411.00640). All functions here take
predictions or one number per question.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from cotpress.errors import DataError
from cotpress.records import Interval, Prediction


def wilson(fraction: float, n: float, confidence: float = 0.95, *, degrees: int | None = None) -> tuple[float, float]:
    """Return the Wilson score interval of a fraction in `n` independent trials; inside [0, 1] and never empty.

    With `degrees` of freedom, the quantile is Student's instead of the normal distribution's.
    """
    tail = (1 + confidence) / 2
    z = float(ndtri(tail) if degrees is None else stdtrit(degrees, tail))
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def fraction_interval(questions: Sequence[float], num_answers: int, confidence: float = 0.95) -> Interval:
    """Return the mean of one fraction per question with its interval, inside [0, 1].

    One sample per question (every fraction 0 or 1), or equal fractions, give Wilson's interval. Others give the same
    formula with two changes, both needed for coverage with few questions: `n` is the number of independent trials that
    would have the standard error clustered by question, at most the number of answers, and the quantile is Student's
    with one degree of freedom less than there are questions. A plain t interval covers 82 to 93 % with 10 questions
    near 0 or 1, this interval 92 to 98 %.
    """
    means = np.asarray(questions, dtype=np.float64)
    n, fraction = len(means), float(means.mean())
    error = standard_error(means)
    if not error or np.isin(means, (0.0, 1.0)).all():
        low, high = wilson(fraction, n, confidence)
    else:
        trials = min(max(fraction * (1 - fraction) / error**2, 1.0), float(num_answers))
        low, high = wilson(fraction, trials, confidence, degrees=n - 1)
    return Interval(value=fraction, low=min(low, fraction), high=max(high, fraction), n=n)


def standard_error(questions: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Return the standard error of the mean over questions, of which each is a mean over samples; None for one."""
    return None if len(questions) < 2 else float(np.std(questions, ddof=1)) / math.sqrt(len(questions))


def mean_interval(values: Sequence[float] | NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Return the mean with Student's t interval; the interval of a single value is unbounded."""
    mean, error = float(np.mean(values)), standard_error(values)
    half = math.inf if error is None else float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    return Interval(value=mean, low=mean - half, high=mean + half, n=len(values))


Measure = Callable[[Prediction], float]  # number measured on one answer


def accuracy_interval(
    predictions: Sequence[Prediction], confidence: float = 0.95, *, budget: int | None = None
) -> Interval:
    """Return the fraction correct, avg@k for k samples per question, with an interval; `n` counts questions.

    With a budget, only answers that end within so many tokens, their end token included, count as correct.
    """
    return fraction_interval(question_means(predictions, _counted_correct(budget)), len(predictions), confidence)


def paired_accuracy_difference(
    system: Sequence[Prediction],
    baseline: Sequence[Prediction],
    confidence: float = 0.95,
    *,
    budget: int | None = None,
) -> Interval:
    """Return the accuracy of `system` minus that of `baseline` on the questions both answered, in [-1, 1].

    With a budget, only answers of both that end within so many tokens count as correct. With one sample per question
    the interval adds half a question to each of the four outcomes (Agresti and Min 2005), so that of two systems that
    agree on every question is not empty. With several it is Student's t over the questions' differences, unless these
    are all equal.

    Raises:
        DataError: They share no question.
    """
    pairs = _paired_means(system, baseline, _counted_correct(budget))
    differences = np.array([ours - theirs for ours, theirs in pairs], dtype=np.float64)
    value, n = float(differences.mean()), len(differences)
    if standard_error(differences) and not np.isin(differences, (-1.0, 0.0, 1.0)).all():
        interval = mean_interval(differences, confidence)
        low, high = interval.low, interval.high
    else:
        total = float(differences.sum())
        spread = float((differences**2).sum()) + 1 - total**2 / (n + 2)
        half = float(ndtri((1 + confidence) / 2)) * math.sqrt(spread) / (n + 2)
        low, high = total / (n + 2) - half, total / (n + 2) + half
    return Interval(value=value, low=min(max(low, -1.0), value), high=max(min(high, 1.0), value), n=n)


def paired_token_difference(
    system: Sequence[Prediction], baseline: Sequence[Prediction], confidence: float = 0.95
) -> Interval:
    """Return the generated tokens per answer of `system` minus those of `baseline` on their common questions.

    Raises:
        DataError: They share no question.
    """
    pairs = _paired_means(system, baseline, lambda p: float(p.num_tokens))
    return mean_interval([ours - theirs for ours, theirs in pairs], confidence)


def _counted_correct(budget: int | None) -> Measure:
    """Return a measure that is 1 for a correct answer that ends within `budget` tokens, 0 for any other.

    A budget includes the end token, as `max_new_tokens` does; `num_tokens` does not.
    """
    allowed = math.inf if budget is None else budget
    return lambda p: float(p.correct and p.num_tokens < allowed)


def _paired_means(
    system: Sequence[Prediction], baseline: Sequence[Prediction], measure: Measure
) -> list[tuple[float, float]]:
    """Return the means of both systems over the samples of each question that both answered."""
    ours, theirs = (_means_by_question(p, measure) for p in (system, baseline))
    pairs = [(mean, theirs[i]) for i, mean in ours.items() if i in theirs]
    if not pairs:
        raise DataError("the two systems answered no common question, so they cannot be compared")
    return pairs


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Estimate without bias the probability that one of `k` answers is correct (arXiv 2107.03374, eq. 1)."""
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {num_samples}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def pass_at_k_intervals(predictions: Sequence[Prediction], confidence: float = 0.95) -> tuple[Interval, ...]:
    """Return pass@k for k from 1 to the fewest samples of any question, each with an interval over questions."""
    questions = list(_by_question(predictions, lambda p: float(p.correct)).values())
    fewest = min(len(q) for q in questions)
    return tuple(
        fraction_interval([pass_at_k(len(q), int(sum(q)), k) for q in questions], len(predictions), confidence)
        for k in range(1, fewest + 1)
    )


def token_ratio(
    system: Sequence[Prediction],
    baseline: Sequence[Prediction],
    measure: Measure = lambda p: float(p.num_tokens),
) -> float | None:
    """Return the generated tokens of `system` relative to `baseline` on their common questions; None if that has none.

    Raises:
        DataError: They share no question.
    """
    pairs = _paired_means(system, baseline, measure)
    below = sum(theirs for _, theirs in pairs)
    return sum(ours for ours, _ in pairs) / below if below else None


def question_means(predictions: Sequence[Prediction], measure: Measure) -> list[float]:
    """Return the mean of the measure over the samples of each question."""
    return list(_means_by_question(predictions, measure).values())


def _means_by_question(predictions: Sequence[Prediction], measure: Measure) -> dict[str, float]:
    return {i: sum(v) / len(v) for i, v in _by_question(predictions, measure).items()}


def _by_question(predictions: Sequence[Prediction], measure: Measure) -> dict[str, list[float]]:
    """Measure all samples of each question, by question id."""
    questions: dict[str, list[float]] = defaultdict(list)
    for prediction in predictions:
        questions[prediction.id].append(measure(prediction))
    return questions
