"""`results.json`: what a finished run says about itself, and all that tables, plots and pages are made from."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError
from cotpress.records import BudgetAccuracy, Interval, SystemResult
from cotpress.store.artifacts import CHECKSUM, content_checksum, plain, write_text_atomic
from cotpress.store.redaction import masked, without_secrets

SCHEMA_VERSION = 3
_READABLE = (1, 2, 3)
"""Version 1 measured less; what it lacks is None. Versions 1 and 2 have no `settings`."""
RESULTS_FILE = "results.json"
CONFIG_FILE = "config.yaml"
FAILURE_FILE = "failure.json"
PREDICTIONS_FILE = "predictions.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One stage of a run.

    Attributes:
        label: What it did, e.g. `sft (Original)`.
        artifact: Key of its artifact, `stage/fingerprint`.
        seconds: Wall time of computing the artifact, whichever job did it.
        fresh: True if this run computed it, False if it was found.
    """

    label: str
    artifact: str
    seconds: float
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """Results of one run.

    Attributes:
        name: Name of the run.
        model: Name of the student.
        benchmark: Name of the benchmark.
        seed: Seed of the run.
        confidence: Level of the intervals in `rows`, in (0, 1).
        rows: Systems in table order.
        stages: Stages in the order they ran.
        essentials: The settings worth a glance (JSON values); the whole configuration is in config.yaml.
        settings: All settings that can tell its rows from those of another run (JSON values); see `runs.row_settings`.
    """

    name: str
    model: str
    benchmark: str
    seed: int
    rows: tuple[SystemResult, ...]
    confidence: float = 0.95
    stages: tuple[StageRecord, ...] = ()
    essentials: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_results(run_dir: Path, results: RunResults) -> Path:
    """Write `results.json` into a run directory; a note of an earlier failure there is removed."""
    run_dir.mkdir(parents=True, exist_ok=True)
    told = {name: masked(plain(getattr(results, name))) for name in ("essentials", "settings")}
    content = _finite({"schema_version": SCHEMA_VERSION, **plain(results), **told})
    content[CHECKSUM] = content_checksum(content)
    path = run_dir / RESULTS_FILE
    write_text_atomic(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    (run_dir / FAILURE_FILE).unlink(missing_ok=True)
    return path


def read_results(run_dir: Path) -> RunResults:
    """The results of a finished run.

    Raises:
        ArtifactError: There is no `results.json`, or it is damaged or of another version.
    """
    path = run_dir / RESULTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop(CHECKSUM, None)  # earlier releases wrote none
        if checksum is not None and checksum != content_checksum(content):
            raise ValueError("its checksum differs")
        version = content.pop("schema_version")
        if version not in _READABLE:
            raise ArtifactError(f"'{path}' has schema version {version}, this release reads {_READABLE}")
        rows = tuple(_row(row) for row in content.pop("rows"))
        stages = tuple(StageRecord(**stage) for stage in content.pop("stages"))
        return RunResults(rows=rows, stages=stages, **content)
    except FileNotFoundError as error:
        raise ArtifactError(f"'{run_dir}' holds no {RESULTS_FILE}: the run is not finished") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"'{path}' is damaged: {error}. Fix: run the same command again") from error


def write_failure(run_dir: Path, message: str) -> None:
    """Note in a run directory why its run stopped, so that a report over many runs can say so."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomic(
        run_dir / FAILURE_FILE, json.dumps({"error": without_secrets(message)}, ensure_ascii=False) + "\n"
    )


def read_failure(run_dir: Path) -> str | None:
    """Why the run stopped, or None if nothing was noted."""
    try:
        return str(json.loads((run_dir / FAILURE_FILE).read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return f"{FAILURE_FILE} cannot be read"


def _row(content: dict[str, Any]) -> SystemResult:
    intervals = {
        name: None if content.get(name) is None else _interval(content[name])
        for name in ("accuracy", "mean_tokens", "accuracy_difference", "mean_reference_tokens")
    }
    at_budgets = tuple(
        BudgetAccuracy(
            budget=b["budget"],
            accuracy=_interval(b["accuracy"]),
            difference=None if b.get("difference") is None else _interval(b["difference"]),
        )
        for b in content.get("accuracy_at_budgets", ())
    )
    passes = tuple(_interval(p) for p in content.get("pass_at_k", ()))
    return SystemResult(**{**content, **intervals, "accuracy_at_budgets": at_budgets, "pass_at_k": passes})


def _interval(content: Mapping[str, Any]) -> Interval:
    low, high = content["low"], content["high"]
    return Interval(
        value=content["value"],
        low=-math.inf if low is None else low,
        high=math.inf if high is None else high,
        n=content["n"],
    )


def _finite(value: Any) -> Any:
    """`value` as strict JSON: an open end of an interval becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
