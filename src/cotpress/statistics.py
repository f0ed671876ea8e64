"""Uncertainty of the results: intervals over questions, or over seeds and questions, paired differences, pass@k.

Several samples of one question are not independent, so the question is the unit: its samples are averaged first, and
the spread between questions gives the error (clustered standard errors, arXiv 2411.00640). The functions here take
predictions, or one number per question `[N]`, or one per seed and question `[S, N]`.

Students of several seeds answer the same questions: seeds and questions are crossed random effects, not nested ones.
The squared standard error of the mean is then the sum of two, that over the means of the questions and that over the
means of the seeds (clustering in two ways without the term for the cells, which they share, so it is rather too large;
Cameron, Gelbach and Miller 2011, Davezies et al. 2021), with Welch's and Satterthwaite's degrees of freedom. Up to the
cells and to a factor 1 - 1/S for the seeds, the variance of Owen's bootstrap of rows and columns (the pigeonhole
bootstrap, 2007) estimates the same. With three seeds that factor and the degrees of freedom count: percentiles of the
bootstrap hardly reach farther than the most extreme seed, so where seeds differ most they cover three means in four at
any level. tests/unit/test_crossed_intervals.py holds the simulation.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from cotpress.errors import DataError
from cotpress.records import Interval, Prediction


def wilson(fraction: float, n: float, confidence: float = 0.95, *, degrees: float | None = None) -> tuple[float, float]:
    """Return the Wilson score interval of a fraction in `n` independent trials; inside [0, 1] and never empty.

    With `degrees` of freedom, the quantile is Student's instead of the normal distribution's.
    """
    tail = (1 + confidence) / 2
    z = float(ndtri(tail) if degrees is None else stdtrit(degrees, tail))
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


Numbers = Sequence[float] | NDArray[np.float64]
"""One number per question `[N]`, or per seed and question `[S, N]`."""


def simultaneous(confidence: float, number: int) -> float:
    """Return the level of each of `number` intervals that hold together at a level, by Bonferroni (Dunn 1961).

    It needs nothing of the intervals: they may depend on each other and be of any kind.
    """
    return 1 - (1 - confidence) / max(number, 1)


def fraction_interval(questions: Numbers, num_answers: int, confidence: float = 0.95) -> Interval:
    """Return the mean of one fraction per question, or per seed and question, with its interval, inside [0, 1].

    One sample per question (every fraction 0 or 1), or equal fractions, give Wilson's interval. Others give the same
    formula with two changes, both needed for coverage with few questions: `n` is the number of independent trials that
    would have the standard error clustered by question, at most the number of answers, and the quantile is Student's
    with one degree of freedom less than there are questions. A plain t interval covers 82 to 93 % with 10 questions
    near 0 or 1, this interval 92 to 98 %. With several seeds, error and degrees are those of both.
    """
    grid = np.atleast_2d(np.asarray(questions, dtype=np.float64))
    n, fraction = grid.shape[1], float(grid.mean())
    error, degrees = _crossed_error(grid)
    if not error or (len(grid) == 1 and np.isin(grid, (0.0, 1.0)).all()):
        low, high = wilson(fraction, n, confidence)
    else:
        trials = min(max(fraction * (1 - fraction) / error**2, 1.0), float(num_answers))
        low, high = wilson(fraction, trials, confidence, degrees=degrees)
    return Interval(value=fraction, low=min(low, fraction), high=max(high, fraction), n=n)


def standard_error(questions: Numbers) -> float | None:
    """Return the standard error of the mean over questions, of which each is a mean over samples; None for one."""
    return None if len(questions) < 2 else float(np.std(questions, ddof=1)) / math.sqrt(len(questions))


def mean_interval(values: Numbers, confidence: float = 0.95) -> Interval:
    """Return the mean with Student's t interval; that of a single question is unbounded."""
    grid = np.atleast_2d(np.asarray(values, dtype=np.float64))
    mean, (error, degrees) = float(grid.mean()), _crossed_error(grid)
    half = math.inf if error is None else float(stdtrit(degrees, (1 + confidence) / 2)) * error
    return Interval(value=mean, low=mean - half, high=mean + half, n=grid.shape[1])


def mean_count_interval(counts: Numbers, confidence: float = 0.95) -> Interval:
    """Return the mean of counts, such as tokens, with Student's t interval, of which the part below 0 is left out."""
    interval = mean_interval(counts, confidence)
    return replace(interval, low=max(interval.low, 0.0))


def difference_interval(differences: Numbers, confidence: float = 0.95) -> Interval:
    """Return the mean of differences of two fractions in [-1, 1] with its interval, inside [-1, 1].

    One difference per question, each -1, 0 or 1, or all equal: the interval adds half a question to each of the four
    outcomes (Agresti and Min 2005), so that of two systems that agree on every question is not empty. Other differences
    of a single seed give Student's t interval. Several seeds give the former with the squared error over seeds added.
    """
    grid = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    by_question, value = grid.mean(axis=0), float(grid.mean())
    n = len(by_question)
    if len(grid) == 1 and standard_error(by_question) and not np.isin(grid, (-1.0, 0.0, 1.0)).all():
        interval = mean_interval(by_question, confidence)
        low, high = interval.low, interval.high
    else:
        total = float(by_question.sum())
        squared = (float((by_question**2).sum()) + 1 - total**2 / (n + 2)) / (n + 2) ** 2
        quantile = float(ndtri((1 + confidence) / 2))
        if len(grid) > 1:
            parts = [(squared, max(n - 1, 1)), _squared_error(grid.mean(axis=1))]
            squared = sum(part for part, _ in parts)
            quantile = float(stdtrit(_welch(parts), (1 + confidence) / 2))
        half = quantile * math.sqrt(squared)
        low, high = total / (n + 2) - half, total / (n + 2) + half
    return Interval(value=value, low=min(max(low, -1.0), value), high=max(min(high, 1.0), value), n=n)


def _crossed_error(grid_SN: NDArray[np.float64]) -> tuple[float | None, float]:
    """Standard error of the mean over seeds and questions, and its degrees of freedom; None for a single question."""
    num_seeds, n = grid_SN.shape
    if n < 2:
        return None, 0
    if num_seeds == 1:
        return standard_error(grid_SN[0]), n - 1
    parts = [_squared_error(grid_SN.mean(axis=0)), _squared_error(grid_SN.mean(axis=1))]
    return math.sqrt(sum(part for part, _ in parts)), _welch(parts)


def _squared_error(means: NDArray[np.float64]) -> tuple[float, int]:
    """Squared standard error of the mean of some means, and its degrees of freedom."""
    return float(np.var(means, ddof=1)) / len(means), len(means) - 1


def _welch(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of squared standard errors (Satterthwaite 1946)."""
    total = sum(part for part, _ in parts)
    return total**2 / sum(part**2 / degrees for part, degrees in parts) if total else parts[0][1]


Measure = Callable[[Prediction], float]  # number measured on one answer


def accuracy_interval(
    predictions: Sequence[Prediction], confidence: float = 0.95, *, budget: int | None = None
) -> Interval:
    """Return the fraction correct, avg@k for k samples per question, with an interval; `n` counts questions.

    With a budget, only answers that end within so many tokens, their end token included, count as correct.
    """
    return fraction_interval(question_means(predictions, counted_correct(budget)), len(predictions), confidence)


def paired_accuracy_difference(
    system: Sequence[Prediction],
    baseline: Sequence[Prediction],
    confidence: float = 0.95,
    *,
    budget: int | None = None,
) -> Interval:
    """Return the accuracy of `system` minus that of `baseline` on the questions both answered, in [-1, 1].

    With a budget, only answers of both that end within so many tokens count as correct. See `difference_interval`.

    Raises:
        DataError: They share no question.
    """
    pairs = _paired_means(system, baseline, counted_correct(budget))
    return difference_interval([ours - theirs for ours, theirs in pairs], confidence)


def counted_correct(budget: int | None) -> Measure:
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


def seed_grids(systems: Sequence[Mapping[int, Sequence[Prediction]]], measure: Measure) -> list[NDArray[np.float64]]:
    """Return the measure of each system on the seeds and questions that all of them share, each `[S, N]`.

    A system has the answers of one student per seed. Samples of a question by one student are averaged.

    Raises:
        DataError: They share no seed, or no question under all shared seeds.
    """
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in systems)))
    means = [[_means_by_question(by_seed[seed], measure) for seed in seeds] for by_seed in systems]
    students = [student for own in means for student in own]
    questions = [q for q in students[0] if all(q in student for student in students)] if students else []
    if not questions:
        raise DataError("the students answered no common question, so they cannot be compared")
    return [np.array([[student[q] for q in questions] for student in own]) for own in means]


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
