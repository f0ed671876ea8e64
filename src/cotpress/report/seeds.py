"""One row per system over all seeds of a comparison, which shows how far a result depends on the seed.

The interval is over questions, whose answers are averaged over the seeds first (arXiv 2411.00640). It does not account
for other seeds: two or three are too few for an interval, so the accuracy of each is shown instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cotpress.records import Interval, Origin, Prediction, System
from cotpress.report.comparison import Answers, Comparison, row_key
from cotpress.report.table import count_interval, difference, percent_interval
from cotpress.statistics import accuracy_interval, mean_interval, paired_accuracy_difference, question_means
from cotpress.store.grid import Grid, csv_text, interval_cells, interval_columns

_HEADINGS = (
    "System", "ratio: asked/actual", "accuracy % [CI]", "each seed, %", "questions", "vs Original, points [CI]",
    "generated tokens [CI]",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsRow:
    """A system at one requested ratio, over its seeds.

    Attributes:
        system: Its label.
        target_ratio: Requested kept fraction.
        actual_ratio: Reached kept fraction of the training thinking, mean over seeds; None if unknown.
        accuracy: Fraction correct, in [0, 1]; `n` counts questions.
        by_seed: Seed and fraction correct of each student, by seed.
        tokens: Generated tokens per answer.
        against_original: Paired difference in accuracy from Original; None for Original and without it.
    """

    system: str
    target_ratio: float
    actual_ratio: float | None
    accuracy: Interval
    by_seed: tuple[tuple[int, float], ...]
    tokens: Interval
    against_original: Interval | None


def over_seeds(comparison: Comparison, answers: Answers) -> list[SeedsRow]:
    """Return every system over its seeds, baselines first, then in the order of the runs; empty for a single seed."""
    if len({run.results.seed for run in comparison.runs}) < 2:
        return []
    kept: dict[System, dict[object, float | None]] = {}
    for run in comparison.runs:
        for row in run.results.rows:
            key = row_key(row, run.results.seed)
            kept.setdefault(comparison.systems[key], {})[key] = row.actual_ratio
    order = list(dict.fromkeys(system.label for system in answers))
    original = next((s for s in answers if s.origin is Origin.original and not s.settings), None)
    rows = []
    for system in sorted(answers, key=lambda s: (not s.is_baseline, order.index(s.label), -(s.ratio or 1))):
        known = [r for r in kept.get(system, {}).values() if r is not None]
        against = None if original is None or system == original else _pooled(answers[original])
        actual = float(np.mean(known)) if known else None
        rows.append(_row(system, answers[system], against, actual, comparison.confidence))
    return rows


def _row(
    system: System,
    by_seed: Mapping[int, Sequence[Prediction]],
    original: Sequence[Prediction] | None,
    actual_ratio: float | None,
    confidence: float,
) -> SeedsRow:
    pooled = _pooled(by_seed)
    return SeedsRow(
        system=system.label,
        target_ratio=1.0 if system.ratio is None else system.ratio,
        actual_ratio=actual_ratio,
        accuracy=accuracy_interval(pooled, confidence),
        by_seed=tuple((seed, accuracy_interval(by_seed[seed], confidence).value) for seed in sorted(by_seed)),
        tokens=mean_interval(question_means(pooled, lambda p: float(p.num_tokens)), confidence),
        against_original=None if original is None else paired_accuracy_difference(pooled, original, confidence),
    )


def _pooled(by_seed: Mapping[int, Sequence[Prediction]]) -> list[Prediction]:
    return [p for answered in by_seed.values() for p in answered]


def seeds_grid(rows: Sequence[SeedsRow]) -> Grid:
    """Return the rows as texts."""
    cells = tuple(
        (
            row.system,
            f"{row.target_ratio:g}/{'-' if row.actual_ratio is None else f'{row.actual_ratio:.2f}'}",
            percent_interval(row.accuracy),
            ", ".join(f"{100 * accuracy:.1f}" for _, accuracy in row.by_seed),
            str(row.accuracy.n),
            difference(row.against_original),
            count_interval(row.tokens),
        )
        for row in rows
    )
    return Grid(_HEADINGS, cells)


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
