"""Reader of the `metrics.csv` of a run."""

import csv
from pathlib import Path


def read_metrics(run_dir: Path) -> list[tuple[str, int | None, str, float]]:
    """Return its rows `(stage, step, name, value)` without torn ones of a killed job; none without a file."""
    path = run_dir / "metrics.csv"
    if not path.exists():
        return []
    header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert header == ["stage", "step", "name", "value"]
    whole = [row for row in rows if len(row) == 4]
    return [(stage, int(step) if step else None, name, float(value)) for stage, step, name, value in whole]
