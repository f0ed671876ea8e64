"""Digests of a run's output, for the comparison of a disturbed run with an undisturbed one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

TIMED_STAGES = ("answer", "evaluate")
"""Their tables hold the seconds of every answer."""
_TIMES = ("latency_s", "seconds_per_sample", "seconds", "fresh", "checksum")
"""The checksum of results covers their times."""


def contents(output_root: Path) -> dict[str, str]:
    """Compute a digest of every output that must be equal, by its path below `output_root`.

    Artifacts are compared by bytes, with their manifests; answers and results without their times. `timing.json`, with
    the duration and the end of the work, is left out.
    """
    found = {}
    for path in sorted(p for p in (output_root / "artifacts").rglob("*") if p.is_file() and p.name != "timing.json"):
        stage, name = path.relative_to(output_root).parts[1], str(path.relative_to(output_root))
        if stage in TIMED_STAGES and path.suffix == ".parquet":
            found[name] = _untimed_table(path)
        elif stage not in (*TIMED_STAGES, ".partial"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(output_root.glob("runs/*/*")):
        if path.name == "results.json":
            found[str(path.relative_to(output_root))] = str(_without_times(json.loads(path.read_text())))
        elif path.name == "predictions.parquet":
            found[str(path.relative_to(output_root))] = _untimed_table(path)
    return found


def _untimed_table(path: Path) -> str:
    table = pq.read_table(path)
    return str(table.select([name for name in table.column_names if name not in _TIMES]).to_pydict())


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in _TIMES}
    return [_without_times(v) for v in value] if isinstance(value, list) else value
