"""The systems of one run: whose answers are compared, and the rows they become."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cotpress.artifacts import Artifact
from cotpress.evaluation.config import EvaluationConfig
from cotpress.evaluation.reference import CountTokens, with_reference_tokens
from cotpress.evaluation.stage import PREDICTIONS
from cotpress.evaluation.summary import matched_budgets, summarize
from cotpress.records import Prediction, SystemResult
from cotpress.tables import read_records

ORIGINAL, BASE = "Original", "Base"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row of the table before it is counted.

    Attributes:
        name: Name of the row.
        ratio: Asked kept fraction.
        actual_ratio: Kept fraction of its training thinking; None if it is not known.
        answers: Artifact with its predictions.
        student: Artifact with its weights; None for what was not trained here.
        ratio_one: Answers of the same student asked for ratio 1, which its ActRatio is relative to; None without.
    """

    name: str
    ratio: float
    actual_ratio: float | None
    answers: Artifact
    student: Artifact | None = None
    ratio_one: Artifact | None = None


def with_ratio_one(system: System) -> list[System]:
    """The system, after a row for its answers at ratio 1 where there are any and they are others."""
    if system.ratio_one is None or system.ratio_one.key == system.answers.key:
        return [system]
    return [replace(system, ratio=1.0, answers=system.ratio_one), system]


def measure(
    systems: Sequence[System], config: EvaluationConfig, count: CountTokens | None = None
) -> tuple[list[SystemResult], list[Prediction]]:
    """One row per system and all their predictions, both in the systems' order.

    Args:
        systems: Whose answers there are.
        config: How they are summarised.
        count: Counts tokens in the reference tokenizer; None without one.
    """
    answers = {
        artifact.key: with_reference_tokens(read_records(artifact.file(PREDICTIONS), Prediction), count)
        for artifact in [a for s in systems for a in (s.answers, s.ratio_one) if a is not None]
    }
    original = next((answers[s.answers.key] for s in systems if s.name == ORIGINAL), None)
    budgets = matched_budgets(config.budgets, original)
    rows = [
        summarize(
            answers[s.answers.key],
            s.name,
            s.ratio,
            s.actual_ratio,
            original,
            ratio_one=None if s.ratio_one is None else answers[s.ratio_one.key],
            budgets=budgets,
            confidence=config.confidence,
            artifacts={a.stage: a.key for a in (s.student, s.answers) if a is not None},
        )
        for s in systems
    ]
    return rows, [p for s in systems for p in answers[s.answers.key]]
