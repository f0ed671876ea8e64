"""Paired differences between the systems of a table: each two that were asked for the same ratio.

Two accuracies whose intervals overlap can still differ for certain, because both systems answered the same questions.
Runs with several seeds count as several samples of each question: their answers are averaged question by question, so
an interval here speaks of other questions, not of other seeds.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cotpress.records import BudgetAccuracy, Interval, Prediction
from cotpress.report.columns import difference
from cotpress.report.comparison import Answers, Comparison, Key
from cotpress.report.table import markdown_cell
from cotpress.statistics import paired_accuracy_difference, paired_token_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One system minus another of the same asked ratio, on the questions both answered.

    Attributes:
        system: The one.
        minus: The other.
        ratio: What both were asked for.
        accuracy: Difference in accuracy, in [-1, 1].
        tokens: Difference in generated tokens per answer.
        at_budgets: Difference in accuracy where an answer only counts if it ended within so many tokens.
    """

    system: str
    minus: str
    ratio: float
    accuracy: Interval
    tokens: Interval
    at_budgets: tuple[BudgetAccuracy, ...]


def compared(comparison: Comparison, answers: Answers) -> list[Difference]:
    """The differences between the systems of one table; the budgets are those that all rows were measured at."""
    pooled = {key: [p for answered in seeds.values() for p in answered] for key, seeds in answers.items()}
    budgets = [{b.budget for b in row.accuracy_at_budgets} for row in comparison.rows]
    return differences(pooled, set.intersection(*budgets) if budgets else (), comparison.confidence)


def differences(
    answers: Mapping[Key, Sequence[Prediction]], budgets: Iterable[int] = (), confidence: float = 0.95
) -> list[Difference]:
    """Every two systems of the same asked ratio, those that share no question left out; by falling ratio.

    Args:
        answers: Predictions of each system, those of all seeds together.
        budgets: Token budgets at which they are compared as well.
        confidence: Level of the intervals.
    """
    limits = sorted(set(budgets))
    found = []
    for (one, ratio), (other, other_ratio) in itertools.combinations(answers, 2):
        ours, theirs = answers[one, ratio], answers[other, other_ratio]
        if ratio != other_ratio or not {p.id for p in ours} & {p.id for p in theirs}:
            continue
        at_budgets = tuple(
            BudgetAccuracy(budget=b, accuracy=paired_accuracy_difference(ours, theirs, confidence, budget=b))
            for b in limits
        )
        found.append(
            Difference(
                system=one,
                minus=other,
                ratio=ratio,
                accuracy=paired_accuracy_difference(ours, theirs, confidence),
                tokens=paired_token_difference(ours, theirs, confidence),
                at_budgets=at_budgets,
            )
        )
    return sorted(found, key=lambda d: -d.ratio)


def differences_markdown(found: Sequence[Difference], confidence: float = 0.95) -> str:
    """The differences as a Markdown table, with what the reader must know of so many intervals below it."""
    headings, *lines = differences_grid(found)
    rule = ["---", "---", *["---:"] * (len(headings) - 2)]
    shown = [headings, rule, *([markdown_cell(cell) for cell in line] for line in lines)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in shown)
    return f"{table}\n{differences_note(found, confidence)}\n"


def differences_grid(found: Sequence[Difference]) -> list[list[str]]:
    """Headings, then one line of cells per difference; `*` marks an interval that does not hold 0."""
    budgets = [b.budget for b in found[0].at_budgets] if found else []
    headings = ["system", "minus", "ratio", "accuracy, points [CI]", "tokens [CI]", "questions"]
    grid = [[*headings, *(f"accuracy at {b} tokens, points [CI]" for b in budgets)]]
    for d in found:
        cells = [d.system, d.minus, f"{d.ratio:g}", _marked(d.accuracy), _tokens(d.tokens), str(d.accuracy.n)]
        grid.append([*cells, *(_marked(b.accuracy) for b in d.at_budgets)])
    return grid


def differences_note(found: Sequence[Difference], confidence: float) -> str:
    """What a star means, and how many stars chance alone would bring."""
    number, expected = len(found), (1 - confidence) * len(found)
    return (
        f"Paired by question, {100 * confidence:g} % intervals; * does not hold 0. Of {number} such intervals about "
        f"{expected:.1f} would not hold 0 by chance alone if there were no difference at all."
    )


def differences_csv(found: Sequence[Difference]) -> str:
    """The differences, unrounded: accuracies as fractions, tokens per answer."""
    budgets = [b.budget for b in found[0].at_budgets] if found else []
    names = ["accuracy", "tokens", *(f"accuracy_at_{b}_tokens" for b in budgets)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{name}{suffix}" for name in names for suffix in ("", "_low", "_high")]
    writer.writerow(["ratio", "system", "minus", "questions", *ends])
    for d in found:
        intervals = [d.accuracy, d.tokens, *(b.accuracy for b in d.at_budgets)]
        numbers = [x for i in intervals for x in (i.value, i.low, i.high)]
        writer.writerow([d.ratio, d.system, d.minus, d.accuracy.n, *numbers])
    return out.getvalue()


def _marked(interval: Interval) -> str:
    return difference(interval) + ("" if interval.low <= 0 <= interval.high else " *")


def _tokens(interval: Interval) -> str:
    star = "" if interval.low <= 0 <= interval.high else " *"
    return f"{interval.value:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]{star}"
