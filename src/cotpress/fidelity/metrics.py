"""Agreement of the scores of one trace with its truth: by rank only, so that no scorer's unit or spread matters."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def auc(scores: Floats, positive: Bools) -> float:
    """Chance that a positive unit has a higher score than a negative one, ties counting half (area under the ROC).

    Args:
        scores: float64 `[m]`.
        positive: bool `[m]`, with both values.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def average_precision(scores: Floats, positive: Bools) -> float:
    """Mean precision over the positive units, each cut off at its own score."""
    return float(average_precision_score(positive, scores))


def kept_share(scores: Floats, essential: Bools, ratio: float) -> float:
    """Share of the essential units among which a compression to `ratio` keeps.

    The selection is that of the compress stage: `round(ratio * m)` units, by score, then by position.
    """
    best_first = np.argsort(-scores, kind="stable")
    kept = best_first[: round(ratio * len(scores))]
    return float(essential[kept].sum() / essential.sum())


def rank_correlation(scores: Floats, importance: Floats) -> float:
    """Spearman's rank correlation, in [-1, 1]; 0 if all scores are equal, since they then say nothing.

    Args:
        scores: float64 `[m]`.
        importance: float64 `[m]`, not all equal.
    """
    if np.ptp(scores) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(scores), rankdata(importance))[0, 1])


def partial_rank_correlation(scores: Floats, importance: Floats) -> float | None:
    """Spearman's rank correlation with position partialled out.

    All three are ranked, and scores and importance are correlated after the part that a straight line over the
    position explains is taken from each. None if nothing is left of one of them.

    Args:
        scores: float64 `[m]`, in the order of the text.
        importance: float64 `[m]`.
    """
    position = np.arange(len(scores), dtype=np.float64)
    rests = [_without(rankdata(values), position) for values in (scores, importance)]
    if any(np.ptp(rest) < 1e-9 * len(scores) for rest in rests):
        return None
    return float(np.corrcoef(rests[0], rests[1])[0, 1])


def _without(values: Floats, position: Floats) -> Floats:
    """What is left of `values` after a least-squares line over `position`."""
    centred, place = values - values.mean(), position - position.mean()
    return np.asarray(centred - place * (centred @ place) / max(float(place @ place), 1e-12), dtype=np.float64)
