"""Differences between the systems of a table, over questions and seeds, and the verdicts that they allow.

Two accuracies whose intervals overlap may still differ significantly, because both systems answered the same questions;
so each two systems of the same requested ratio are compared question by question. Students of several seeds are also
compared seed by seed, and the interval is over seeds and questions (statistics.py), so it accounts for other trainings.
The intervals of one table hold together at its level: each has a higher one (Bonferroni), as every one of them is a
comparison that could have come out by chance.

A system keeps its accuracy if the whole interval of the difference from Original lies within a margin: an equivalence
test, at a stricter level than two one-sided tests (Schuirmann 1987) need. An interval that holds 0 shows nothing alone.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cotpress.records import Interval, Origin, Prediction, System
from cotpress.report.comparison import Answers, Comparison
from cotpress.report.table import count_interval, difference, percent_interval
from cotpress.statistics import (
    Measure,
    counted_correct,
    difference_interval,
    fraction_interval,
    mean_count_interval,
    mean_interval,
    question_means,
    seed_grids,
    simultaneous,
)
from cotpress.store.grid import Grid, Narrower, csv_text, interval_cells, interval_columns
from cotpress.terminal import wrapped

FEWEST_SEEDS = 3
"""Seeds that a verdict needs."""
KEEPS, LOSES, GAINS, NOT_SHOWN = "keeps accuracy within {margin:g} points", "loses", "gains", "not shown"

_BySeed = Mapping[int, Sequence[Prediction]]
"""Answers of the student of each seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """System `system` minus system `minus` of the same requested ratio, on the seeds and questions that both answered.

    Attributes:
        num_seeds: Seeds that the intervals are over.
        accuracy: In [-1, 1].
        tokens: Generated tokens per answer.
        at_budgets: Difference in accuracy if an answer only counts when it ended within so many tokens, by that number.
    """

    system: str
    minus: str
    ratio: float
    num_seeds: int
    accuracy: Interval
    tokens: Interval
    at_budgets: Mapping[int, Interval]

    @property
    def intervals(self) -> list[Interval]:
        """All intervals of the row."""
        return [self.accuracy, self.tokens, *self.at_budgets.values()]


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
        verdict: The claim that this difference allows; empty without it.
    """

    system: str
    target_ratio: float
    asked: str
    actual_ratio: float | None
    accuracy: Interval
    by_seed: tuple[tuple[int, float], ...]
    tokens: Interval
    against_original: Interval | None
    verdict: str = ""


def compared(comparison: Comparison, answers: Answers) -> list[Difference]:
    """Return the differences between the systems of one table, at the budgets that all its rows have."""
    budgets = [{b.budget for b in row.accuracy_at_budgets} for row in comparison.rows]
    return differences(answers, set.intersection(*budgets) if budgets else (), comparison.confidence)


def differences(answers: Answers, budgets: Iterable[int] = (), confidence: float = 0.95) -> list[Difference]:
    """Compare each two systems of one ratio that share questions, by falling ratio.

    All intervals of the result hold together at the level `confidence`.
    """
    pairs = []
    for system, minus in itertools.combinations(answers, 2):
        if system.ratio is not None and system.ratio == minus.ratio:
            matched = _matched(system, minus, answers)
            if matched is not None:
                pairs.append((system, minus, system.ratio, *matched))
    budgets = sorted(set(budgets))
    level = simultaneous(confidence, len(pairs) * (2 + len(budgets)))

    def row(system: System, minus: System, ratio: float, ours: _BySeed, theirs: _BySeed) -> Difference:
        def minus_theirs(measure: Measure) -> NDArray[np.float64]:
            first, second = seed_grids([ours, theirs], measure)
            return first - second

        correct = {b: minus_theirs(counted_correct(b)) for b in (None, *budgets)}
        return Difference(
            system=system.label,
            minus=minus.label,
            ratio=ratio,
            num_seeds=len(correct[None]),
            accuracy=difference_interval(correct[None], level),
            tokens=mean_interval(minus_theirs(_tokens), level),
            at_budgets={b: difference_interval(correct[b], level) for b in budgets},
        )

    return sorted((row(*pair) for pair in pairs), key=lambda d: -d.ratio)


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


def differences_note(rows: Sequence[Difference], confidence: float) -> str:
    """Explain the star, the level of the intervals and their scope."""
    number = sum(len(row.intervals) for row in rows)
    level = _level_note(number, "intervals", confidence)
    return f"Paired by question and seed; * does not hold 0. {level}; {_scope([row.num_seeds for row in rows])}."


def differences_csv(rows: Sequence[Difference]) -> str:
    """Return the differences unrounded: accuracies as fractions, tokens per answer."""
    names = ["accuracy", "tokens", *(f"accuracy_at_{budget}_tokens" for budget in (rows[0].at_budgets if rows else ()))]
    lines = []
    for d in rows:
        lines.append([d.ratio, d.system, d.minus, d.accuracy.n, *interval_cells(d.intervals), d.num_seeds])
    return csv_text(["ratio", "system", "minus", "questions", *interval_columns(names), "seeds"], lines)


def over_seeds(comparison: Comparison, answers: Answers) -> list[SeedsRow]:
    """Return every system over its seeds, baselines first, then in the order of the runs; empty for a single seed.

    The intervals have the level that lets all comparisons with Original hold together at that of the comparison.
    """
    if len({run.results.seed for run in comparison.runs}) < 2:
        return []
    order = list(dict.fromkeys(system.label for system in answers))
    original = next((s for s in answers if s.origin is Origin.original and not s.settings), None)
    against = {s: _matched(s, original, answers) for s in answers if original is not None and s != original}
    level = simultaneous(comparison.confidence, len([pair for pair in against.values() if pair is not None]))
    rows = []
    for system in sorted(answers, key=lambda s: (not s.is_baseline, order.index(s.label), -_asked(s))):
        by_seed = _distinct(answers[system])
        own = [row for row in comparison.rows if replace(row.source, seed=None) == system]
        known = [row.actual_ratio for row in own if row.actual_ratio is not None]
        shared = _aligned(by_seed)
        [correct], [tokens] = (seed_grids([shared], measure) for measure in (counted_correct(None), _tokens))
        row = SeedsRow(
            system=system.label,
            target_ratio=_asked(system),
            asked="own" if system.has_own_length else f"{_asked(system):g}",
            actual_ratio=float(np.mean(known)) if known else None,
            accuracy=fraction_interval(correct, sum(map(len, by_seed.values())), level),
            by_seed=tuple((seed, float(np.mean(_correct_of(by_seed[seed])))) for seed in sorted(by_seed)),
            tokens=mean_count_interval(tokens, level),
            against_original=None,
        )
        if (pair := against.get(system)) is not None:
            ours, theirs = seed_grids(pair, counted_correct(None))
            difference_ = difference_interval(ours - theirs, level)
            row = replace(row, against_original=difference_, verdict=verdict(difference_, len(ours), comparison.margin))
        rows.append(row)
    return rows


def verdict(against_original: Interval, num_seeds: int, margin: float) -> str:
    """Return the claim that a difference in accuracy from Original allows, with a margin in points.

    `loses` and `gains` say that the interval leaves out 0 and does not lie within the margin.
    """
    if num_seeds < FEWEST_SEEDS:
        return f"{NOT_SHOWN} ({num_seeds} of {FEWEST_SEEDS} seeds)"
    low, high = 100 * against_original.low, 100 * against_original.high
    if -margin <= low and high <= margin:
        return KEEPS.format(margin=margin)
    return LOSES if high < 0 else GAINS if low > 0 else NOT_SHOWN


def seeds_grid(rows: Sequence[SeedsRow]) -> Grid:
    """Return the rows as texts; where there is little room, system, asked ratio, accuracy and verdict stay."""
    headings = (
        "System", "asked\nratio", "kept in\ntraining", "accuracy %\n[CI]", "each seed, %", "questions",
        "vs Original,\npoints [CI]", "verdict", "generated\ntokens [CI]",
    )  # fmt: skip
    cells = tuple(
        (
            row.system,
            row.asked,
            "-" if row.actual_ratio is None else f"{row.actual_ratio:.2f}",
            percent_interval(row.accuracy),
            ", ".join(f"{100 * accuracy:.1f}" for _, accuracy in row.by_seed),
            str(row.accuracy.n),
            difference(row.against_original),
            row.verdict or "-",
            count_interval(row.tokens),
        )
        for row in rows
    )
    return Grid(headings, cells, narrower=tuple(Narrower(headings[place]) for place in (4, 2, 5, 8, 6)))


def seeds_note(rows: Sequence[SeedsRow], comparison: Comparison) -> str:
    """Explain the intervals and the verdicts."""
    number = sum(row.against_original is not None for row in rows)
    level = _level_note(number, "differences from Original", comparison.confidence)
    return (
        f"{level}; {_scope([len(row.by_seed) for row in rows])}. Accuracy is kept if the whole interval lies within "
        f"{comparison.margin:g} points; a verdict needs {FEWEST_SEEDS} seeds."
    )


def verdict_lines(rows: Sequence[SeedsRow], comparison: Comparison, width: int | None = None) -> list[str]:
    """Return the verdicts over several seeds and the note that explains them, for a terminal of a `width`; none without
    Original."""
    texts = [
        f"{row.system} at {row.target_ratio:g}: {row.verdict}, {difference(row.against_original)} points"
        for row in rows
        if row.against_original is not None
    ]
    verdicts = [line for text in texts for line in wrapped(text, width, "  ")]
    return [*wrapped(seeds_note(rows, comparison), width), *verdicts, ""] if texts else []


def _level_note(number: int, noun: str, confidence: float) -> str:
    """Tell the level of some intervals, together and each."""
    if number < 2:
        return f"All intervals have {100 * confidence:g} %"
    each = f"{100 * simultaneous(confidence, number):.4g} %"
    return f"The {number} {noun} hold together with {100 * confidence:g} %, so each interval has {each} (Bonferroni)"


def _scope(num_seeds: Sequence[int]) -> str:
    """Say if intervals cover other seeds, given the number of seeds behind each."""
    if max(num_seeds) < 2:
        return "they cover questions alone, as there is one seed"
    single = ", but questions alone where there is one seed" if min(num_seeds) < 2 else ""
    return f"they cover seeds and questions{single}"


def seeds_csv(rows: Sequence[SeedsRow]) -> str:
    """Return the rows unrounded: for each system a line over all seeds (`seed` is empty), then a line per seed."""
    ends = interval_columns(("accuracy", "tokens", "against_original"))
    lines: list[list[object]] = []
    for row in rows:
        place = [row.system, row.target_ratio, row.actual_ratio]
        numbers = interval_cells((row.accuracy, row.tokens, row.against_original))
        lines.append([*place, None, row.accuracy.n, *numbers, row.verdict])
        for seed, accuracy in row.by_seed:
            lines.append([*place, seed, row.accuracy.n, accuracy, *[None] * len(ends)])
    return csv_text(["system", "target_ratio", "actual_ratio", "seed", "questions", *ends, "verdict"], lines)


def _matched(system: System, minus: System, answers: Answers) -> tuple[_BySeed, _BySeed] | None:
    """Return the answers of two systems by the seeds that they share, or None if they share no question.

    Seeds with the same two students count once. Students of different seeds alone are compared as one student each, of
    all their answers.
    """
    ours, theirs = answers[system], answers[minus]
    seeds = {(id(ours[seed]), id(theirs[seed])): seed for seed in ours if seed in theirs}.values()
    matched = {seed: ours[seed] for seed in seeds}, {seed: theirs[seed] for seed in seeds}
    pooled = {0: _pooled(ours)}, {0: _pooled(theirs)}
    for first, second in (matched, pooled):
        if _questions(first) & _questions(second):
            return first, second
    return None


def _distinct(by_seed: _BySeed) -> _BySeed:
    """Return the answers by seed without those of a student that a smaller seed shares."""
    return dict({id(by_seed[seed]): (seed, by_seed[seed]) for seed in sorted(by_seed, reverse=True)}.values())


def _aligned(by_seed: _BySeed) -> _BySeed:
    """Return the answers by seed if all students answered some common question, else as those of one student."""
    return by_seed if _questions(by_seed) else {0: _pooled(by_seed)}


def _questions(by_seed: _BySeed) -> set[str]:
    """Return the questions that the students of all seeds answered."""
    questions = [{p.id for p in student} for student in by_seed.values()]
    return set.intersection(*questions) if questions else set()


def _asked(system: System) -> float:
    return 1.0 if system.ratio is None else system.ratio


def _pooled(by_seed: _BySeed) -> list[Prediction]:
    return [p for answered in _distinct(by_seed).values() for p in answered]


def _tokens(prediction: Prediction) -> float:
    return float(prediction.num_tokens)


def _correct_of(predictions: Sequence[Prediction]) -> list[float]:
    return question_means(predictions, counted_correct(None))


def _star(interval: Interval) -> str:
    return "" if interval.low <= 0 <= interval.high else " *"
