"""Differences between the systems of a table, and between the seeds of one system.

Two accuracies whose intervals overlap may still differ significantly, because both systems answered the same questions;
so each two systems of the same requested ratio are compared question by question. Runs with several seeds count as
several samples of each question: their answers are averaged by question first (arXiv 2411.00640), so an interval here
accounts for other questions, not for other seeds. Two or three seeds are too few for an interval; the accuracy of each
is shown instead.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cotpress.records import Interval, Origin, Prediction, System
from cotpress.report.comparison import Answers, Comparison
from cotpress.report.table import count_interval, difference, percent_interval
from cotpress.statistics import (
    accuracy_interval,
    mean_interval,
    paired_accuracy_difference,
    paired_token_difference,
    question_means,
)
from cotpress.store.grid import Grid, csv_text, interval_cells, interval_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """System `system` minus system `minus` of the same requested ratio, on the questions that both answered.

    Attributes:
        accuracy: In [-1, 1].
        tokens: Generated tokens per answer.
        at_budgets: Difference in accuracy if an answer only counts when it ended within so many tokens, by that number.
    """

    system: str
    minus: str
    ratio: float
    accuracy: Interval
    tokens: Interval
    at_budgets: Mapping[int, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsRow:
    """A system at one requested ratio, over its seeds.

    Attributes:
        asked: Requested ratio as a text; `own` for traces with a length of their own.
        actual_ratio: Reached kept fraction of the training thinking, mean over seeds; None if unknown.
        accuracy: Fraction correct, in [0, 1]; `n` counts questions.
        by_seed: Seed and fraction correct of each student, by seed.
        tokens: Generated tokens per answer.
        against_original: Paired difference in accuracy from Original; None for Original and without it.
    """

    system: str
    target_ratio: float
    asked: str
    actual_ratio: float | None
    accuracy: Interval
    by_seed: tuple[tuple[int, float], ...]
    tokens: Interval
    against_original: Interval | None


def compared(comparison: Comparison, answers: Answers) -> list[Difference]:
    """Return the differences between the systems of one table, at the budgets that all its rows have."""
    pooled = {system: _pooled(by_seed) for system, by_seed in answers.items()}
    budgets = [{b.budget for b in row.accuracy_at_budgets} for row in comparison.rows]
    return differences(pooled, set.intersection(*budgets) if budgets else (), comparison.confidence)


def differences(
    answers: Mapping[System, Sequence[Prediction]], budgets: Iterable[int] = (), confidence: float = 0.95
) -> list[Difference]:
    """Compare each two systems of one ratio that share questions, by falling ratio, over the answers of all seeds."""
    rows = []
    for system, minus in itertools.combinations(answers, 2):
        ours, theirs = answers[system], answers[minus]
        if system.ratio is None or system.ratio != minus.ratio or not {p.id for p in ours} & {p.id for p in theirs}:
            continue
        at_budgets = {b: paired_accuracy_difference(ours, theirs, confidence, budget=b) for b in sorted(set(budgets))}
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
            d.system, d.minus, f"{d.ratio:g}", difference(d.accuracy) + _star(d.accuracy),
            f"{d.tokens.value:+.1f} [{d.tokens.low:+.1f}, {d.tokens.high:+.1f}]{_star(d.tokens)}", str(d.accuracy.n),
            *(difference(i) + _star(i) for i in d.at_budgets.values()),
        )
        for d in rows
    )  # fmt: skip
    budgets = (f"accuracy at {budget} tokens, points [CI]" for budget in rows[0].at_budgets)
    return Grid((*headings, *budgets), cells, left=2)


def differences_note(number: int, confidence: float) -> str:
    """Explain the star, and how many stars chance alone would give."""
    return (
        f"Paired by question, {100 * confidence:g} % intervals; * does not hold 0. Of {number} such intervals about "
        f"{(1 - confidence) * number:.1f} would not hold 0 by chance alone if there were no difference at all."
    )


def differences_csv(rows: Sequence[Difference]) -> str:
    """Return the differences unrounded: accuracies as fractions, tokens per answer."""
    names = ["accuracy", "tokens", *(f"accuracy_at_{budget}_tokens" for budget in (rows[0].at_budgets if rows else ()))]
    lines = []
    for d in rows:
        cells = interval_cells([d.accuracy, d.tokens, *d.at_budgets.values()])
        lines.append([d.ratio, d.system, d.minus, d.accuracy.n, *cells])
    return csv_text(["ratio", "system", "minus", "questions", *interval_columns(names)], lines)


def over_seeds(comparison: Comparison, answers: Answers) -> list[SeedsRow]:
    """Return every system over its seeds, baselines first, then in the order of the runs; empty for a single seed."""
    if len({run.results.seed for run in comparison.runs}) < 2:
        return []
    order = list(dict.fromkeys(system.label for system in answers))
    original = next((s for s in answers if s.origin is Origin.original and not s.settings), None)
    confidence = comparison.confidence
    rows = []
    for system in sorted(
        answers, key=lambda s: (not s.is_baseline, order.index(s.label), -(1 if s.ratio is None else s.ratio))
    ):
        by_seed = answers[system]
        own = [row for row in comparison.rows if replace(row.source, seed=None) == system]
        known = [row.actual_ratio for row in own if row.actual_ratio is not None]
        pooled = _pooled(by_seed)
        against = None
        if original is not None and system != original:
            against = paired_accuracy_difference(pooled, _pooled(answers[original]), confidence)
        rows.append(
            SeedsRow(
                system=system.label,
                target_ratio=1.0 if system.ratio is None else system.ratio,
                asked="own" if system.has_own_length else f"{1.0 if system.ratio is None else system.ratio:g}",
                actual_ratio=float(np.mean(known)) if known else None,
                accuracy=accuracy_interval(pooled, confidence),
                by_seed=tuple((seed, accuracy_interval(by_seed[seed], confidence).value) for seed in sorted(by_seed)),
                tokens=mean_interval(question_means(pooled, lambda p: float(p.num_tokens)), confidence),
                against_original=against,
            )
        )
    return rows


def seeds_grid(rows: Sequence[SeedsRow]) -> Grid:
    """Return the rows as texts."""
    headings = (
        "System", "ratio: asked/actual", "accuracy % [CI]", "each seed, %", "questions", "vs Original, points [CI]",
        "generated tokens [CI]",
    )  # fmt: skip
    cells = tuple(
        (
            row.system,
            f"{row.asked}/{'-' if row.actual_ratio is None else f'{row.actual_ratio:.2f}'}",
            percent_interval(row.accuracy),
            ", ".join(f"{100 * accuracy:.1f}" for _, accuracy in row.by_seed),
            str(row.accuracy.n),
            difference(row.against_original),
            count_interval(row.tokens),
        )
        for row in rows
    )
    return Grid(headings, cells)


def seeds_note(confidence: float) -> str:
    """Explain the intervals."""
    return (
        f"{100 * confidence:g} % intervals over questions, averaged over the seeds first; they do not speak of other "
        "seeds, for which see the accuracy of each."
    )


def seeds_csv(rows: Sequence[SeedsRow]) -> str:
    """Return the rows unrounded: for each system a line over all seeds (`seed` is empty), then a line per seed."""
    ends = interval_columns(("accuracy", "tokens", "against_original"))
    lines: list[list[object]] = []
    for row in rows:
        place = [row.system, row.target_ratio, row.actual_ratio]
        numbers = interval_cells((row.accuracy, row.tokens, row.against_original))
        lines.append([*place, None, row.accuracy.n, *numbers])
        for seed, accuracy in row.by_seed:
            lines.append([*place, seed, row.accuracy.n, accuracy, *[None] * (len(ends) - 1)])
    return csv_text(["system", "target_ratio", "actual_ratio", "seed", "questions", *ends], lines)


def _pooled(by_seed: Mapping[int, Sequence[Prediction]]) -> list[Prediction]:
    return [p for answered in by_seed.values() for p in answered]


def _star(interval: Interval) -> str:
    return "" if interval.low <= 0 <= interval.high else " *"
