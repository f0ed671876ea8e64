"""What is measured for each kind of truth, one trace at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotpress.fidelity.cases import Case
from cotpress.fidelity.metrics import (
    auc,
    average_precision,
    kept_share,
    partial_rank_correlation,
    rank_correlation,
)
from cotpress.records import TruthKind

RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Kept fractions at which the kept share of the essential tokens is told."""
MIN_SENTENCES = 3
"""Fewer cannot be correlated with position partialled out."""

_MAIN = {TruthKind.tokens: "ROC AUC", TruthKind.steps: "ROC AUC", TruthKind.importance: "rank correlation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What was measured in one trace; a measure that is not defined there is missing.

    Attributes:
        metrics: Measures by name, the main one first. AP is the average precision; `kept@R` the share of the essential
            tokens that a compression to R keeps.
        kinds: ROC AUC by kind of token: of an essential kind against all redundant tokens, of all essential tokens
            against a redundant kind.
    """

    metrics: Mapping[str, float]
    kinds: Mapping[str, float]


def main_metric(kind: TruthKind) -> str:
    """Name of the measure that tables are sorted by."""
    return _MAIN[kind]


def unusable(kind: TruthKind, case: Case) -> str | None:
    """Why nothing can be measured on a trace, or None."""
    if kind is TruthKind.importance:
        if len(case.worth) < MIN_SENTENCES:
            return f"fewer than {MIN_SENTENCES} sentences"
        return "all sentences equally important" if np.ptp(case.worth) == 0 else None
    if len(case.worth) == 0 or not case.worth.any():
        return "nothing essential"
    return "nothing redundant" if case.worth.all() else None


def judge(kind: TruthKind, case: Case, scores: NDArray[np.float64]) -> Judgement:
    """How well the scores of one trace's units agree with its truth.

    Args:
        kind: What is known.
        case: A trace that is not `unusable`.
        scores: float64 `[m]`, one per unit, higher = keep.
    """
    if kind is TruthKind.importance:
        metrics = {_MAIN[kind]: rank_correlation(scores, case.worth)}
        partial = partial_rank_correlation(scores, case.worth)
        if partial is not None:
            metrics["position partialled out"] = partial
        return Judgement(metrics=metrics, kinds={})
    essential = case.worth > 0
    metrics = {_MAIN[kind]: auc(scores, essential)}
    if kind is TruthKind.steps:
        return Judgement(metrics=metrics, kinds={})
    metrics["AP"] = average_precision(scores, essential)
    metrics |= {f"kept@{ratio:g}": kept_share(scores, essential, ratio) for ratio in RATIOS}
    return Judgement(metrics=metrics, kinds=_by_kind(case, scores, essential))


def _by_kind(case: Case, scores: NDArray[np.float64], essential: NDArray[np.bool_]) -> dict[str, float]:
    kinds = np.array(case.kinds)
    found = {}
    for kind in sorted(set(case.kinds)):
        of_kind = kinds == kind
        is_essential = bool(essential[of_kind].all())
        compared = of_kind | (~essential if is_essential else essential)
        found[kind] = auc(scores[compared], essential[compared])
    return found
