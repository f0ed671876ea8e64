"""`metrics.csv`: the record of a job, with rows `stage, step, name, value`."""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from cotpress.store.artifacts import Artifact
from cotpress.tracking.base import Table, artifact_metrics, stage_of

METRICS_FILE = "metrics.csv"
COLUMNS = ("stage", "step", "name", "value")


class CsvTracker:
    """Appends to `metrics.csv`; every row is on disk when `log` returns."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._handle = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._handle, lineterminator="\n")
        if torn:  # an earlier job was killed inside a row
            self._handle.write("\n")
        if self._handle.tell() == 0:
            self._writer.writerow(COLUMNS)
        self._handle.flush()

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Write one row per metric."""
        where, when = stage_of(stage, system), "" if step is None else step
        self._writer.writerows([(where, when, name, repr(float(value))) for name, value in metrics.items()])
        self._handle.flush()

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Write its numbers; its files lie in the artifact."""
        self.log(artifact.stage, artifact_metrics(artifact), system=system)

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Nothing: tables are shown from the artifacts and from predictions.parquet."""

    def close(self, *, failed: bool = False) -> None:
        """Close the file."""
        self._handle.close()


class LastValues:
    """Writes `metrics.csv` once, at the end, with the last value of each metric."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._last: dict[tuple[str, str], tuple[int | None, float]] = {}

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Remember the values."""
        self._last |= {(stage_of(stage, system), name): (step, float(value)) for name, value in metrics.items()}

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Remember its numbers."""
        self.log(artifact.stage, artifact_metrics(artifact), system=system)

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Nothing."""

    def close(self, *, failed: bool = False) -> None:
        """Write the file; one of an earlier job is replaced."""
        (self._run_dir / METRICS_FILE).unlink(missing_ok=True)
        tracker = CsvTracker(self._run_dir)
        for (stage, name), (step, value) in self._last.items():
            tracker.log(stage, {name: value}, step)
        tracker.close()


def read_metrics(run_dir: Path) -> list[tuple[str, int | None, str, float]]:
    """Rows `(stage, step, name, value)` of a run's metrics.csv; rows cut off by a kill are left out."""
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.reader(handle):
            value = _number(row[3]) if len(row) == len(COLUMNS) else None
            if value is not None:
                rows.append((row[0], int(row[1]) if row[1] else None, row[2], value))
    return rows


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
