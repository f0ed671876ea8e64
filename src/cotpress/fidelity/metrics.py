"""Agreement of the scores of one trace with its truth, by rank only, so that no scorer's unit or spread matters.

Intervals are over traces, since the tokens and steps of one trace are not independent.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from cotpress.fidelity.cases import Case, Floats
from cotpress.modeling.selection import rank_many
from cotpress.records import Interval, TruthKind

SEED = 0  # seed of the resamples of every interval, so that a repeated command gives the same numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Intervals by resampling the traces: their level, and the number of resamples."""

    confidence: float
    num_resamples: int

    def mean(self, values: Sequence[float]) -> Interval:
        """Return the mean over traces, at least one, with its percentile bootstrap interval (Efron 1979)."""
        data = np.asarray(values, dtype=np.float64)
        means = _weights(len(data), self.num_resamples) @ data / len(data)
        low, high = np.quantile(means, [(1 - self.confidence) / 2, (1 + self.confidence) / 2]).tolist()
        mean = float(data.mean())
        return Interval(value=mean, low=min(low, mean), high=max(high, mean), n=len(data))


@functools.lru_cache(maxsize=8)
def _weights(num_values: int, num_resamples: int) -> NDArray[np.float64]:
    """Return how often each resample draws each value, float64 `[num_resamples, num_values]`."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(num_values, np.full(num_values, 1 / num_values), size=num_resamples).astype(np.float64)


Bools = NDArray[np.bool_]


def auc(scores: Floats, positive: Bools) -> float:
    """Return the chance that a positive unit has a higher score than a negative one, ties counting half (ROC AUC)."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def kept_share(scores: Floats, essential: Bools, ratio: float) -> float:
    """Return the share of the essential units that a compression to `ratio` keeps."""
    kept = rank_many(scores, np.array([len(scores)])).cut(np.array([ratio]))
    return float((kept & essential).sum() / essential.sum())


def rank_correlation(scores: Floats, importance: Floats) -> float:
    """Return Spearman's rank correlation with importances that are not all equal; 0 if all scores are."""
    if np.ptp(scores) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(scores), rankdata(importance))[0, 1])


def partial_rank_correlation(scores: Floats, importance: Floats) -> float | None:
    """Return Spearman's rank correlation with position partialled out.

    All three are ranked, and the residuals of scores and importance after a linear regression on position are
    correlated. None if one of them has no residuals. Both are in the order of the text.
    """
    position = np.arange(len(scores), dtype=np.float64)
    rests = [_without(rankdata(values), position) for values in (scores, importance)]
    if any(np.ptp(rest) < 1e-9 * len(scores) for rest in rests):
        return None
    return float(np.corrcoef(rests[0], rests[1])[0, 1])


def _without(values: Floats, position: Floats) -> Floats:
    """Return the residuals of `values` after a linear regression on `position`."""
    centred, place = values - values.mean(), position - position.mean()
    return np.asarray(centred - place * (centred @ place) / max(float(place @ place), 1e-12), dtype=np.float64)


RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # ratios of `kept@R`
MIN_SENTENCES = 3  # minimum for a correlation with position partialled out


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Measures of one trace, without those that are not defined for it."""

    # Measures by name, the main one first. AP is the average precision, `kept@R` the share of the essential tokens that
    # a compression to R keeps.
    metrics: Mapping[str, float]
    # ROC AUC by kind of token: of an essential kind against all redundant tokens, of all essential tokens against a
    # redundant kind
    kinds: Mapping[str, float]

    @property
    def main(self) -> float:
        """Measure that tables are sorted by."""
        return next(iter(self.metrics.values()))


def unusable(kind: TruthKind, case: Case) -> str | None:
    """Return the reason why nothing can be measured on a trace, or None."""
    if kind is TruthKind.importance:
        if len(case.worth) < MIN_SENTENCES:
            return f"fewer than {MIN_SENTENCES} sentences"
        return "all sentences equally important" if np.ptp(case.worth) == 0 else None
    if len(case.worth) == 0 or not case.worth.any():
        return "nothing essential"
    return "nothing redundant" if case.worth.all() else None


def judge(kind: TruthKind, case: Case, scores: Floats) -> Judgement:
    """Measure how well the scores of one trace's units, float64 `[m]`, agree with its truth; it is not `unusable`."""
    if kind is TruthKind.importance:
        metrics = {"rank correlation": rank_correlation(scores, case.worth)}
        partial = partial_rank_correlation(scores, case.worth)
        if partial is not None:
            metrics["position partialled out"] = partial
        return Judgement(metrics=metrics, kinds={})
    essential = case.worth > 0
    metrics = {"ROC AUC": auc(scores, essential)}
    if kind is TruthKind.steps:
        return Judgement(metrics=metrics, kinds={})
    metrics["AP"] = float(average_precision_score(essential, scores))
    metrics |= {f"kept@{ratio:g}": kept_share(scores, essential, ratio) for ratio in RATIOS}
    kinds = {}
    for name in sorted(set(case.kinds)):
        of_kind = np.array(case.kinds) == name
        compared = of_kind | (~essential if essential[of_kind].all() else essential)
        kinds[name] = auc(scores[compared], essential[compared])
    return Judgement(metrics=metrics, kinds=kinds)
