"""How sure the numbers are: intervals over questions, paired differences, one table row per system.

Several samples of one question are not independent, so the question is the unit: its samples are averaged first, and
the spread between questions gives the error (clustered standard errors, arXiv 2411.00640).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import DataError
from cotpress.records import Interval, Prediction, SystemResult


def wilson(fraction: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a fraction observed in `n` independent trials; inside [0, 1] and never empty."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (fraction + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def accuracy_interval(predictions: Sequence[Prediction], confidence: float = 0.95) -> Interval:
    """Fraction correct with a Wilson interval over questions; `n` is the number of questions.

    With one sample per question this is the plain Wilson interval. With several, `n` in its formula is the number of
    independent trials that would have the clustered standard error: at most the number of answers, at least the
    number of questions over their largest share.
    """
    correct = _by_question(predictions, lambda p: float(p.correct))
    answers = sum(len(v) for v in correct.values())
    fraction = sum(sum(v) for v in correct.values()) / answers
    low, high = wilson(fraction, _effective_trials(list(correct.values()), fraction), confidence)
    return Interval(value=fraction, low=min(low, fraction), high=max(high, fraction), n=len(correct))


def _effective_trials(clusters: list[list[float]], fraction: float) -> float:
    answers = sum(len(c) for c in clusters)
    squared_error = sum((sum(c) - fraction * len(c)) ** 2 for c in clusters) / answers**2
    if squared_error == 0:  # all answers right or all wrong: no spread to see, so only whole questions count
        return float(len(clusters))
    return min(max(fraction * (1 - fraction) / squared_error, 1.0), float(answers))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval; a single value has the whole line as interval."""
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if len(data) < 2:
        return Interval(value=mean, low=-math.inf, high=math.inf, n=len(data))
    half = student_t_quantile((1 + confidence) / 2, len(data) - 1) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(value=mean, low=mean - half, high=mean + half, n=len(data))


def student_t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t distribution for a probability in [0.5, 1) and `df` >= 1 degrees of freedom.

    With t = sqrt(df) tan(u) the density becomes proportional to cos(u)^(df - 1), which Simpson's rule integrates to
    nine digits; the quantile is found by bisection.
    """
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        grid = np.cos(np.linspace(0.0, middle, 401)) ** (df - 1)
        integral = middle / 1200 * (grid[0] + grid[-1] + 4 * grid[1:-1:2].sum() + 2 * grid[2:-1:2].sum())
        low, high = (middle, high) if 0.5 + scale * integral < probability else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def paired_accuracy_difference(
    system: Sequence[Prediction], baseline: Sequence[Prediction], confidence: float = 0.95
) -> Interval:
    """Accuracy of `system` minus that of `baseline` on the questions both answered, in [-1, 1].

    The interval adds half a question to each of the four outcomes (Agresti and Min 2005), so two systems that agree
    on every question still do not look equal for certain.

    Raises:
        DataError: They share no question.
    """
    differences = _paired(system, baseline, lambda p: float(p.correct))
    n, total = len(differences), float(differences.sum())
    centre = total / (n + 2)
    spread = float((differences**2).sum()) + 1 - total**2 / (n + 2)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(spread) / (n + 2)
    value = total / n
    return Interval(
        value=value, low=min(max(centre - half, -1.0), value), high=max(min(centre + half, 1.0), value), n=n
    )


def token_ratio(system: Sequence[Prediction], baseline: Sequence[Prediction]) -> float:
    """Generated tokens of `system` relative to `baseline` on the questions both answered (ActRatio of TokenSkip).

    Raises:
        DataError: They share no question, or the baseline wrote nothing on those they share.
    """
    ours, theirs = (_means(p, lambda q: float(q.num_tokens)) for p in (system, baseline))
    shared = _shared(ours, theirs)
    below = sum(theirs[i] for i in shared)
    if below == 0:
        raise DataError("cannot compare generated tokens: the baseline wrote none on the shared questions")
    return sum(ours[i] for i in shared) / below


def summarize(
    predictions: Sequence[Prediction],
    system: str,
    ratio: float,
    actual_ratio: float | None,
    original: Sequence[Prediction] | None,
    *,
    confidence: float = 0.95,
    artifacts: Mapping[str, str] | None = None,
) -> SystemResult:
    """One row of the results table.

    Args:
        predictions: Answers of the system, one or several samples per question.
        system: Name of the row.
        ratio: Asked kept fraction of the training thinking.
        actual_ratio: Reached kept fraction; None if it is not known.
        original: Answers of the student of uncompressed traces to the same questions, or None.
        confidence: Level of the intervals.
        artifacts: Keys of the artifacts behind the row, by stage.

    Raises:
        DataError: There are no predictions, or none shares a question with `original`.
    """
    if not predictions:
        raise DataError(f"{system}: no predictions to summarize. Fix: benchmark.limit must leave at least one problem")
    tokens = list(_means(predictions, lambda p: float(p.num_tokens)).values())
    return SystemResult(
        system=system,
        target_ratio=ratio,
        actual_ratio=actual_ratio,
        accuracy=accuracy_interval(predictions, confidence),
        mean_tokens=mean_interval(tokens, confidence),
        truncation_rate=float(np.mean([p.finish_reason == "length" for p in predictions])),
        seconds_per_sample=float(np.mean([p.latency_s for p in predictions])),
        generated_ratio=None if original is None else token_ratio(predictions, original),
        accuracy_difference=None if original is None else paired_accuracy_difference(predictions, original, confidence),
        artifacts=dict(artifacts or {}),
    )


def _by_question(predictions: Sequence[Prediction], measure: Callable[[Prediction], float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for prediction in predictions:
        found[prediction.id].append(measure(prediction))
    return found


def _means(predictions: Sequence[Prediction], measure: Callable[[Prediction], float]) -> dict[str, float]:
    return {i: sum(v) / len(v) for i, v in _by_question(predictions, measure).items()}


def _paired(
    system: Sequence[Prediction], baseline: Sequence[Prediction], measure: Callable[[Prediction], float]
) -> NDArray[np.float64]:
    ours, theirs = _means(system, measure), _means(baseline, measure)
    return np.array([ours[i] - theirs[i] for i in _shared(ours, theirs)], dtype=np.float64)


def _shared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
    shared = [i for i in ours if i in theirs]
    if not shared:
        raise DataError("the two systems answered no common question, so they cannot be compared")
    return shared
