"""Judged answers of the students of an experiment's sweeps, and differences between them that were planned beforehand.

A table of a multirun compares every pair of its systems and corrects for all of them. The question of an experiment
needs few pairs, some of them across sweeps; only these are corrected for here.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotpress.records import Interval, Prediction
from cotpress.report.comparison import answers_of, compare
from cotpress.report.results import collect
from cotpress.statistics import counted_correct, difference_interval, seed_grids, simultaneous
from cotpress.store.grid import csv_text, interval_cells, interval_columns

log = logging.getLogger(__name__)

CONTRASTS_FILE = "contrasts.csv"
COLUMNS = ("contrast", "ratio", "system", "minus", "seeds", "questions", *interval_columns(["accuracy"]), "tokens")

BySeed = Mapping[int, Sequence[Prediction]]
Answers = Mapping[tuple[str, float], BySeed]
"""Answers by the label of a system and its ratio; 1 for a system without one."""


def sweep_answers(multirun: Path) -> Answers:
    """Return the answers of all systems in the table of a multirun, or of several below one folder."""
    [comparison] = compare(collect(multirun).runs)
    return {(s.label, 1.0 if s.ratio is None else s.ratio): own for s, own in answers_of(comparison).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A difference between two students of one ratio, each named by its sweep and its label in that sweep's table.

    Attributes:
        name: The change that makes the difference.
        ratio: Requested ratio.
        at: Ratio of the second student, if it has another one.
    """

    name: str
    system: tuple[str, str]
    minus: tuple[str, str]
    ratio: float
    at: float | None = None


def contrasts_csv(contrasts: Sequence[Contrast], sweeps: Mapping[str, Answers], confidence: float = 0.95) -> str:
    """Measure all contrasts with both students; their intervals of the accuracy hold together at the level."""
    measured, missing = [], []
    for contrast in contrasts:
        at = contrast.ratio if contrast.at is None else contrast.at
        ours = sweeps.get(contrast.system[0], {}).get((contrast.system[1], contrast.ratio))
        theirs = sweeps.get(contrast.minus[0], {}).get((contrast.minus[1], at))
        if ours is None or theirs is None:
            missing.append(f"{contrast.name} at {contrast.ratio:g}")
        else:
            measured.append((contrast, ours, theirs))
    if missing:
        log.warning("%d contrasts have no students: %s", len(missing), ", ".join(missing))
    level = simultaneous(confidence, len(measured))
    lines = []
    for contrast, ours, theirs in measured:
        interval, tokens = _difference(ours, theirs, level)
        names = (" ".join(contrast.system), " ".join(contrast.minus))
        numbers = (min(len(ours), len(theirs)), interval.n, *interval_cells([interval]), tokens)
        lines.append([contrast.name, contrast.ratio, *names, *numbers])
    return csv_text(COLUMNS, lines)


def _difference(ours: BySeed, theirs: BySeed, level: float) -> tuple[Interval, float]:
    """Return the difference in accuracy with its interval, and that in generated tokens."""
    correct, tokens = (seed_grids([ours, theirs], m) for m in (counted_correct(None), num_tokens))
    return difference_interval(correct[0] - correct[1], level), float((tokens[0] - tokens[1]).mean())


def num_tokens(prediction: Prediction) -> float:
    """Measure the generated tokens of an answer."""
    return float(prediction.num_tokens)
