"""Collects the losses of the students of `run.sh`: python -m experiments.several_machines.curves DIR CSV."""

import csv
import sys
from pathlib import Path

from cotpress.records import TRAIN_LOG_FILE
from experiments.drawing import read_rows

METHODS = ("lora", "full")
PLACES = {"one": "1 process", "two": "2 processes of one machine", "machines": "2 machines"}
"""Part of the folder's name, and where the training ran."""


def main(folder: Path, target: Path) -> None:
    """Write method, place, step, loss and target tokens of every step; print the largest distances from one process."""
    with target.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["method", "place", "step", "loss", "num_target_tokens"])
        for method in METHODS:
            curves = {}
            for part, place in PLACES.items():
                (student,) = (folder / f"{method}-{part}" / "artifacts" / "sft").iterdir()
                rows = read_rows(student / TRAIN_LOG_FILE)
                writer.writerows([method, place, r["step"], r["loss"], r["num_target_tokens"]] for r in rows)
                curves[place] = [float(r["loss"]) for r in rows]
            first, *others = curves.items()
            for place, curve in others:
                distance = max(abs(a - b) / b for a, b in zip(curve, first[1], strict=True))
                sys.stdout.write(f"{method}, {place}: {len(curve)} steps, at most {distance:.1e} from {first[0]}\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
