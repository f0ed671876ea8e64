"""Paired differences between the systems of a table, for each two of the same requested ratio.

Two accuracies whose intervals overlap may still differ significantly, because both systems answered the same questions.
Runs with several seeds count as several samples of each question: their answers are averaged by question, so an
interval here accounts for other questions, not for other seeds.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cotpress.records import BudgetAccuracy, Interval, Prediction, System
from cotpress.report.comparison import Answers, Comparison
from cotpress.report.table import difference
from cotpress.statistics import paired_accuracy_difference, paired_token_difference
from cotpress.store.grid import Grid, csv_text, interval_cells, interval_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One system minus another of the same requested ratio, on the questions that both answered.

    Attributes:
        system: Label of the first.
        minus: Label of the second.
        ratio: Their ratio.
        accuracy: Difference in accuracy, in [-1, 1].
        tokens: Difference in generated tokens per answer.
        at_budgets: Difference in accuracy if an answer only counts when it ended within so many tokens.
    """

    system: str
    minus: str
    ratio: float
    accuracy: Interval
    tokens: Interval
    at_budgets: tuple[BudgetAccuracy, ...]


def compared(comparison: Comparison, answers: Answers) -> list[Difference]:
    """Return the differences between the systems of one table, at the budgets that all its rows have."""
    pooled = {key: [p for answered in seeds.values() for p in answered] for key, seeds in answers.items()}
    budgets = [{b.budget for b in row.accuracy_at_budgets} for row in comparison.rows]
    return differences(pooled, set.intersection(*budgets) if budgets else (), comparison.confidence)


def differences(
    answers: Mapping[System, Sequence[Prediction]], budgets: Iterable[int] = (), confidence: float = 0.95
) -> list[Difference]:
    """Compare each two systems of one ratio that share questions, by falling ratio.

    Args:
        answers: Predictions of each system, of all seeds together.
        budgets: Token budgets.
        confidence: Level of the intervals.
    """
    limits = sorted(set(budgets))
    rows = []
    for system, minus in itertools.combinations(answers, 2):
        ours, theirs = answers[system], answers[minus]
        if system.ratio is None or system.ratio != minus.ratio or not {p.id for p in ours} & {p.id for p in theirs}:
            continue
        at_budgets = tuple(
            BudgetAccuracy(budget=b, accuracy=paired_accuracy_difference(ours, theirs, confidence, budget=b))
            for b in limits
        )
        rows.append(
            Difference(
                system=system.label,
                minus=minus.label,
                ratio=system.ratio,
                accuracy=paired_accuracy_difference(ours, theirs, confidence),
                tokens=paired_token_difference(ours, theirs, confidence),
                at_budgets=at_budgets,
            )
        )
    return sorted(rows, key=lambda d: -d.ratio)


def differences_grid(rows: Sequence[Difference]) -> Grid:
    """Return one row per difference, of which there is at least one; `*` marks an interval without 0."""
    headings = ("system", "minus", "ratio", "accuracy, points [CI]", "tokens [CI]", "questions")
    cells = tuple(
        (
            d.system, d.minus, f"{d.ratio:g}", _marked(d.accuracy), _tokens(d.tokens), str(d.accuracy.n),
            *(_marked(b.accuracy) for b in d.at_budgets),
        )
        for d in rows
    )  # fmt: skip
    budgets = (f"accuracy at {b.budget} tokens, points [CI]" for b in rows[0].at_budgets)
    return Grid((*headings, *budgets), cells, left=2)


def differences_note(number: int, confidence: float) -> str:
    """Explain the star, and how many stars chance alone would give."""
    return (
        f"Paired by question, {100 * confidence:g} % intervals; * does not hold 0. Of {number} such intervals about "
        f"{(1 - confidence) * number:.1f} would not hold 0 by chance alone if there were no difference at all."
    )


def differences_csv(rows: Sequence[Difference]) -> str:
    """Return the differences unrounded: accuracies as fractions, tokens per answer."""
    budgets = rows[0].at_budgets if rows else ()
    names = ["accuracy", "tokens", *(f"accuracy_at_{b.budget}_tokens" for b in budgets)]
    lines = (
        [d.ratio, d.system, d.minus, d.accuracy.n,
         *interval_cells([d.accuracy, d.tokens, *(b.accuracy for b in d.at_budgets)])]
        for d in rows
    )  # fmt: skip
    return csv_text(["ratio", "system", "minus", "questions", *interval_columns(names)], lines)


def _marked(interval: Interval) -> str:
    return difference(interval) + _star(interval)


def _tokens(interval: Interval) -> str:
    return f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]{_star(interval)}"


def _star(interval: Interval) -> str:
    return "" if interval.low <= 0 <= interval.high else " *"
