"""`results.json` and `failure.json` of a run; tables, figures and pages are made from these alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cotpress.records import FAILURE_FILE, MIXED, BudgetAccuracy, Interval, Origin, System, SystemResult
from cotpress.store.artifacts import plain, write_text_atomic
from cotpress.store.redaction import masked, without_secrets
from cotpress.store.results import damaged, read_interval, read_results_file, write_results_file

SCHEMA_VERSION = 4
_READABLE = (1, 2, 3, 4)
"""Version 1 measured less, and what it lacks is None; versions before 3 have no `settings`, those before 4 name systems
by their labels alone."""
_OF_SYSTEMS = ("score", "decide", "compress", "sft", "evaluate")
_INTERVALS = ("accuracy", "mean_tokens", "accuracy_difference", "mean_reference_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One stage of a run.

    Attributes:
        label: Stage and system, e.g. `sft (Original)`.
        artifact: Key of its artifact, `stage/fingerprint`.
        seconds: Wall time of computing the artifact, in whichever job.
        fresh: True if this run computed it, False if it existed.
        system: The system that it belongs to; None for what all systems share.
    """

    label: str
    artifact: str
    seconds: float
    fresh: bool
    system: System | None = None

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.artifact.partition("/")[0]

    @property
    def title(self) -> str:
        """Label with the ratio, which distinguishes the students of one scorer: `sft (cts 0.5)`."""
        if self.system is None or self.stage == "evaluate":  # whose labels contain the ratio
            return self.label
        return f"{self.stage} ({self.system.title})"


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
        essentials: Most important settings (JSON values); the whole configuration is in config.yaml.
        settings: All settings that may distinguish its rows from those of another run (JSON values).
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
    """Write `results.json` into a run directory and remove the note of an earlier failure there."""
    shown = {name: masked(plain(getattr(results, name))) for name in ("essentials", "settings")}
    path = write_results_file(run_dir, SCHEMA_VERSION, {**plain(results), **shown})
    (run_dir / FAILURE_FILE).unlink(missing_ok=True)
    return path


def read_results(run_dir: Path) -> RunResults:
    """Read the results of a finished run.

    Raises:
        ArtifactError: There is no `results.json`, or it is damaged or of another version.
    """
    content = read_results_file(run_dir, _READABLE)
    try:
        rows = tuple(_row(row) for row in content.pop("rows"))
        stages = tuple(_stage(stage, rows) for stage in content.pop("stages"))
        return RunResults(rows=rows, stages=stages, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(run_dir, error) from error


def write_failure(run_dir: Path, message: str) -> None:
    """Note in a run directory why its run stopped, for a report over many runs."""
    run_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"error": without_secrets(message)}, ensure_ascii=False)
    write_text_atomic(run_dir / FAILURE_FILE, text + "\n")


def read_failure(run_dir: Path) -> str | None:
    """Return why the run stopped; None if nothing was noted."""
    try:
        return str(json.loads((run_dir / FAILURE_FILE).read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return f"{FAILURE_FILE} cannot be read"


def _row(content: dict[str, Any]) -> SystemResult:
    intervals = {name: read_interval(content.get(name)) for name in _INTERVALS}
    at_budgets = tuple(
        BudgetAccuracy(
            budget=b["budget"], accuracy=_interval(b["accuracy"]), difference=read_interval(b.get("difference"))
        )
        for b in content.get("accuracy_at_budgets", ())
    )
    passes = tuple(_interval(p) for p in content.get("pass_at_k", ()))
    identity = _system(content.get("identity"))
    changed = {**intervals, "accuracy_at_budgets": at_budgets, "pass_at_k": passes, "identity": identity}
    return SystemResult(**{**content, **changed})


def _interval(content: Mapping[str, Any]) -> Interval:
    interval = read_interval(content)
    if interval is None:
        raise ValueError("an interval is null")
    return interval


def _system(content: Mapping[str, Any] | None) -> System | None:
    if content is None:
        return None
    settings = tuple((key, value) for key, value in content["settings"])
    return System(**{**content, "origin": Origin(content["origin"]), "settings": settings})


def _stage(content: dict[str, Any], rows: Sequence[SystemResult]) -> StageRecord:
    record = StageRecord(**{**content, "system": _system(content.get("system"))})
    return record if record.system else replace(record, system=_system_in_label(record, rows))


def _system_in_label(record: StageRecord, rows: Sequence[SystemResult]) -> System | None:
    """Return the system that the label of an earlier release names in brackets, with the ratio of its only row."""
    stage, _, rest = record.label.partition(" (")
    if stage not in _OF_SYSTEMS or not rest:
        return None
    label, _, ratio = rest.removesuffix(")").partition(", ratio ")
    system = System.from_label(label)
    if ratio:
        return replace(system, ratio=float(ratio))
    ratios = {row.target_ratio for row in rows if row.system == label and row.target_ratio < 1}
    known = len(ratios) == 1 and stage != "score" and system.variant != MIXED
    return replace(system, ratio=ratios.pop()) if known else system
