"""One row per system over all seeds of a comparison: how far a result depends on the draw of the training.

The interval is over questions, whose answers are averaged over the seeds first (arXiv 2411.00640). It does not speak of
other seeds: two or three are too few for an interval, so the accuracy of each is shown instead.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cotpress.records import Interval, Prediction
from cotpress.report.columns import count_interval, difference, percent_interval
from cotpress.report.comparison import Answers, Comparison, identity
from cotpress.report.row_names import is_baseline
from cotpress.report.table import markdown_cell
from cotpress.statistics import accuracy_interval, mean_interval, paired_accuracy_difference, question_means

_ORIGINAL = ("Original", 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsRow:
    """A system at one asked ratio, over its seeds.

    Attributes:
        actual_ratio: Reached kept fraction of the training thinking, mean over seeds; None if it is not known.
        accuracy: Fraction correct, in [0, 1]; `n` counts questions.
        by_seed: Seed and fraction correct of each student, by seed.
        tokens: Generated tokens per answer.
        against_original: Accuracy minus that of Original, paired by question; None for Original and without it.
    """

    system: str
    target_ratio: float
    actual_ratio: float | None
    accuracy: Interval
    by_seed: tuple[tuple[int, float], ...]
    tokens: Interval
    against_original: Interval | None


def over_seeds(comparison: Comparison, answers: Answers) -> list[SeedsRow]:
    """Every system over its seeds, baselines first, then in the order of the runs; empty for runs of a single seed."""
    if len({run.results.seed for run in comparison.runs}) < 2:
        return []
    kept: dict[tuple[str, float], dict[object, float | None]] = {}
    for run in comparison.runs:
        for row in run.results.rows:
            same = identity(row, run.results.seed)
            kept.setdefault((comparison.names[same], row.target_ratio), {})[same] = row.actual_ratio
    order = list(dict.fromkeys(system for system, _ in answers))
    original = answers.get(_ORIGINAL)
    rows = []
    for key in sorted(answers, key=lambda k: (not is_baseline(k[0]), order.index(k[0]), -k[1])):
        known = [r for r in kept.get(key, {}).values() if r is not None]
        against = None if key == _ORIGINAL or original is None else _pooled(original)
        rows.append(_row(key, answers[key], against, float(np.mean(known)) if known else None, comparison.confidence))
    return rows


def _row(
    key: tuple[str, float],
    by_seed: Mapping[int, Sequence[Prediction]],
    original: Sequence[Prediction] | None,
    actual_ratio: float | None,
    confidence: float,
) -> SeedsRow:
    pooled = _pooled(by_seed)
    return SeedsRow(
        system=key[0],
        target_ratio=key[1],
        actual_ratio=actual_ratio,
        accuracy=accuracy_interval(pooled, confidence),
        by_seed=tuple((seed, accuracy_interval(by_seed[seed], confidence).value) for seed in sorted(by_seed)),
        tokens=mean_interval(question_means(pooled, lambda p: float(p.num_tokens)), confidence),
        against_original=None if original is None else paired_accuracy_difference(pooled, original, confidence),
    )


def _pooled(by_seed: Mapping[int, Sequence[Prediction]]) -> list[Prediction]:
    return [p for answered in by_seed.values() for p in answered]


HEADINGS = ("System", "ratio: asked/actual", "accuracy % [CI]", "each seed, %", "questions", "vs Original, points [CI]",
            "generated tokens [CI]")  # fmt: skip


def seeds_grid(rows: Sequence[SeedsRow]) -> list[list[str]]:
    """One line of cells per row, under `HEADINGS`."""
    return [
        [
            row.system,
            f"{row.target_ratio:g}/{'-' if row.actual_ratio is None else f'{row.actual_ratio:.2f}'}",
            percent_interval(row.accuracy),
            ", ".join(f"{100 * accuracy:.1f}" for _, accuracy in row.by_seed),
            str(row.accuracy.n),
            difference(row.against_original),
            count_interval(row.tokens),
        ]
        for row in rows
    ]


def seeds_note(confidence: float) -> str:
    """What the intervals speak of."""
    return (
        f"{100 * confidence:g} % intervals over questions, averaged over the seeds first; they do not speak of other "
        "seeds, for which see the accuracy of each."
    )


def seeds_markdown(rows: Sequence[SeedsRow], confidence: float = 0.95) -> str:
    """The rows as a Markdown table, with what its intervals speak of below it."""
    rule = ["---", *["---:"] * (len(HEADINGS) - 1)]
    lines = [HEADINGS, rule, *([markdown_cell(cell) for cell in line] for line in seeds_grid(rows))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{seeds_note(confidence)}\n"


def seeds_csv(rows: Sequence[SeedsRow]) -> str:
    """The rows, unrounded, accuracies as fractions: one line over all seeds (`seed` is empty), then one per seed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{name}{end}" for name in ("accuracy", "tokens", "against_original") for end in ("", "_low", "_high")]
    writer.writerow(["system", "target_ratio", "actual_ratio", "seed", "questions", *ends])
    for row in rows:
        measured = (row.accuracy, row.tokens, row.against_original)
        numbers = [x for i in measured for x in ((None,) * 3 if i is None else (i.value, i.low, i.high))]
        place = [row.system, row.target_ratio, row.actual_ratio]
        writer.writerow([*place, None, row.accuracy.n, *numbers])
        for seed, accuracy in row.by_seed:
            writer.writerow([*place, seed, row.accuracy.n, accuracy, *[None] * (len(ends) - 1)])
    return out.getvalue()
