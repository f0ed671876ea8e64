"""Changes that raise the accuracy of a student, for the line under the table of a student that loses accuracy.

    python -m experiments.testbed.advice [DIR] [FILE]

Reads NAME-seeds.csv of the sweeps in DIR (this folder) and writes FILE (src/cotpress/report/advice.csv): every two
students that differ in one setting, in the direction that raises accuracy. The interval of a difference comes from the
two intervals of its accuracies (MOVER, Zou and Donner 2008), as if the students had answered other questions; they
answered the same ones, so it is rather too wide. The command that shows the line leaves out intervals that hold zero.
"""

import csv
import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cotpress.report.advice import ADVICE_FILE, COLUMNS
from cotpress.store.grid import csv_text

HERE = Path(__file__).parent
OUTPUT = HERE.parents[1] / "src" / "cotpress" / "report" / ADVICE_FILE
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
    """A system of a sweep over its seeds; accuracies are fractions."""

    sweep: str
    settings: Mapping[str, str]  # `scorer`, `ratio` and others, by their keys
    accuracy: float
    low: float
    high: float
    num_questions: int
    num_seeds: int


def students(path: Path) -> Iterator[Student]:
    """Yield the students of scorers in the table of one sweep."""
    sweep = path.name.removesuffix("-seeds.csv")
    if sweep not in FIXED:
        raise SystemExit(f"{path.name}: FIXED in {Path(__file__).name} lacks the settings that its students share")
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        name, *pairs = row["system"].split()
        if row["seed"] or name in NO_METHODS or not all("=" in pair for pair in pairs):
            continue
        named = {KEYS.get(key, key): value for key, _, value in (pair.partition("=") for pair in pairs)}
        if short := [key for key in named if "." not in key]:
            raise SystemExit(f"{path.name}: KEYS in {Path(__file__).name} lacks {', '.join(short)}")
        same = [r for r in rows if (r["system"], r["target_ratio"]) == (row["system"], row["target_ratio"])]
        yield Student(
            sweep=sweep,
            settings={
                "scorer": name, "ratio": f"{float(row['target_ratio']):g}", **USUAL, **FIXED[sweep], **named
            },
            accuracy=float(row["accuracy"]),
            low=float(row["accuracy_low"]),
            high=float(row["accuracy_high"]),
            num_questions=int(row["questions"]),
            num_seeds=len(same) - 1,
        )  # fmt: skip


def changes(all_students: list[Student]) -> Iterator[list[object]]:
    """Yield a row of `COLUMNS` for every two students that differ in one setting."""
    for one, other in itertools.combinations(all_students, 2):
        worse, better = sorted((one, other), key=lambda student: student.accuracy)
        old, new = worse.settings, better.settings
        differing = [key for key in old if old[key] != new.get(key)]
        if old.keys() != new.keys() or len(differing) != 1:
            continue
        (setting,) = differing
        gain = better.accuracy - worse.accuracy
        low = gain - math.hypot(better.accuracy - better.low, worse.high - worse.accuracy)
        high = gain + math.hypot(better.high - better.accuracy, worse.accuracy - worse.low)
        where = " ".join(f"{k}={v}" for k, v in old.items() if k not in ("scorer", "ratio", setting))
        points = (round(100 * value, 2) for value in (gain, low, high))
        source = f"experiments/testbed, {' and '.join(dict.fromkeys((worse.sweep, better.sweep)))}"
        yield [
            MODEL, DATA, BENCHMARK, old["scorer"], old["ratio"], where, setting, old[setting], new[setting], *points,
            min(one.num_questions, other.num_questions), min(one.num_seeds, other.num_seeds), source,
        ]  # fmt: skip


def main(folder: Path, output: Path) -> None:
    """Write the table."""
    all_students = [
        student
        for path in sorted(folder.glob("*-seeds.csv"))
        if path.name.removesuffix("-seeds.csv") not in NOT_GENERAL
        for student in students(path)
    ]
    output.write_text(csv_text(COLUMNS, changes(all_students)), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        raise SystemExit(__doc__)
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*given, *(HERE, OUTPUT)[len(given) :])
