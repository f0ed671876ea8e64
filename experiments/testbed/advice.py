"""Changes that raise the accuracy of a student, for the line under the table of a student that loses accuracy.

    python -m experiments.testbed.advice MULTIRUN [FILE]

Reads the answers of this experiment's sweeps below the folder MULTIRUN and writes FILE, by default
src/cotpress/report/advice.csv: every two students that differ in one setting, in the direction that raises accuracy.
Differences are paired by question and seed; each interval, by itself, covers both with 95 %. The command that shows the
line leaves out intervals that hold zero.
"""

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotpress.report.advice import ADVICE_FILE, COLUMNS
from cotpress.statistics import counted_correct, difference_interval, seed_grids
from cotpress.store.grid import csv_text
from experiments.answers import Answers, BySeed, sweep_answers

OUTPUT = Path(__file__).parents[2] / "src" / "cotpress" / "report" / ADVICE_FILE
MODEL, DATA, BENCHMARK = "smollm2", "planted", "planted"
UNIT, START, PROTECTION = "compression.granularity", "sft.start", "compression.protection"
KEYS = {"granularity": UNIT, "condition": "scorer.condition", "alignment": "scorer.alignment"}
"""Settings that the names of rows have in short."""
FIXED = {
    "bounds": {UNIT: "word"}, "cts": {}, "tokenskip": {}, "tokens": {UNIT: "token"}, "start": {UNIT: "word"},
    "rate": {UNIT: "word"}, "examples": {UNIT: "word"}, "protect": {UNIT: "word", PROTECTION: "math"},
}  # fmt: skip
"""Settings that all students of a sweep share, and which their names therefore lack."""
NOT_GENERAL = ("openings",)
"""Sweeps whose settings fit the built-in texts alone."""
USUAL = {START: "base", PROTECTION: "none"}
"""Settings of the sweeps that do not set them."""
NO_METHODS = ("planted", "Original", "Random", "random", "Base")
"""Rows that no change leads from or to: labels that real data lacks, and baselines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A system of a sweep, with its answers by seed."""

    sweep: str
    settings: Mapping[str, str]  # `scorer`, `ratio` and others, by their keys
    answers: BySeed


def students(sweep: str, answers: Answers) -> Iterator[Student]:
    """Yield the students of scorers in the answers of one sweep."""
    if sweep not in FIXED:
        raise SystemExit(f"{sweep}: FIXED in {Path(__file__).name} lacks the settings that its students share")
    for (label, ratio), by_seed in answers.items():
        name, *pairs = label.split()
        if name in NO_METHODS or not all("=" in pair for pair in pairs):
            continue
        named = {KEYS.get(key, key): value for key, _, value in (pair.partition("=") for pair in pairs)}
        if short := [key for key in named if "." not in key]:
            raise SystemExit(f"{sweep}: KEYS in {Path(__file__).name} lacks {', '.join(short)}")
        settings = {"scorer": name, "ratio": f"{ratio:g}", **USUAL, **FIXED[sweep], **named}
        yield Student(sweep=sweep, settings=settings, answers=by_seed)


def changes(all_students: Sequence[Student]) -> Iterator[list[object]]:
    """Yield a row of `COLUMNS` for every two students that differ in one setting."""
    for pair in itertools.combinations(all_students, 2):
        one, other = (student.settings for student in pair)
        differing = [key for key in one if one[key] != other.get(key)]
        if one.keys() != other.keys() or len(differing) != 1:
            continue
        grids = seed_grids([student.answers for student in pair], counted_correct(None))
        if grids[0].mean() > grids[1].mean():
            pair, grids = pair[::-1], grids[::-1]
        (worse, better), (old, new) = pair, (student.settings for student in pair)
        gain = difference_interval(grids[1] - grids[0])
        (setting,) = differing
        where = " ".join(f"{k}={v}" for k, v in old.items() if k not in ("scorer", "ratio", setting))
        points = (round(100 * value, 2) for value in (gain.value, gain.low, gain.high))
        source = f"experiments/testbed, {' and '.join(dict.fromkeys((worse.sweep, better.sweep)))}"
        yield [
            MODEL, DATA, BENCHMARK, old["scorer"], old["ratio"], where, setting, old[setting], new[setting], *points,
            gain.n, len(grids[0]), source,
        ]  # fmt: skip


def main(multirun: Path, output: Path = OUTPUT) -> None:
    """Write the table."""
    folders = [path for path in sorted(multirun.iterdir()) if path.is_dir() and path.name not in NOT_GENERAL]
    write({path.name: sweep_answers(path) for path in folders}, output)


def write(sweeps: Mapping[str, Answers], output: Path) -> None:
    """Write the table of all changes between the students of some sweeps."""
    found = [student for sweep, answers in sweeps.items() for student in students(sweep, answers)]
    output.write_text(csv_text(COLUMNS, changes(found)), encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(*map(Path, sys.argv[1:]))
