"""What a tracker is given: metrics, finished stage outputs, tables."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cotpress.store.artifacts import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is tracked.

    Attributes:
        run_dir: Gets `metrics.csv`.
        name: Shown name.
        system: The job's own system, e.g. the scorer; others that it makes (Original, Base) are named when
            they are logged.
        tags: Further labels: model, data or benchmark.
        ratio: Asked kept fraction; None where there is none.
        sweep: Shared by the jobs of one sweep; None for a single job.
        config: The whole resolved configuration.
        output_root: Where notes of what was sent lie.
    """

    run_dir: Path
    name: str
    system: str
    output_root: Path
    tags: Sequence[str] = ()
    ratio: float | None = None
    sweep: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of equal length, values of plain types."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Tracker(Protocol):
    """Takes what one job has to tell. `system` is empty for the job's own."""

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Record metrics of a stage.

        Args:
            stage: Name of the stage.
            metrics: Values by name.
            step: Optimizer step, where there is one.
            system: Whose they are.
            once: Identity of what was measured: a service that has it already does not get it twice.
        """

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Record a stage's finished output, whether this job computed it or found it."""

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Offer a table about a stage; `make` gets the most rows it may have, and is called only if it is wanted."""

    def close(self, *, failed: bool = False) -> None:
        """Finish; nothing is logged after it."""


class OfSystem:
    """A tracker for the stages of another system than the job's own, e.g. for the baseline's student."""

    def __init__(self, tracker: Tracker, system: str) -> None:
        self._tracker, self._system = tracker, system

    def log(
        self, stage: str, metrics: Mapping[str, float], step: int | None = None, *, system: str = "", once: str = ""
    ) -> None:
        """Pass the metrics on as that system's."""
        self._tracker.log(stage, metrics, step, system=system or self._system, once=once)

    def artifact(self, artifact: Artifact, *, system: str = "") -> None:
        """Pass the artifact on as that system's."""
        self._tracker.artifact(artifact, system=system or self._system)

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str = "") -> None:
        """Pass the table on as that system's."""
        self._tracker.table(stage, name, make, system=system or self._system)

    def close(self, *, failed: bool = False) -> None:
        """Finish the tracker behind."""
        self._tracker.close(failed=failed)


def stage_of(stage: str, system: str) -> str:
    """Name of a stage of a system: `sft` of the job's own, `sft_original` of Original."""
    return f"{stage}_{re.sub(r'[^a-z0-9.]+', '_', system.lower()).strip('_')}" if system else stage


def artifact_metrics(artifact: Artifact) -> dict[str, float]:
    """Rows, drops, seconds and the numbers among the facts of a stage's output."""
    found: dict[str, float] = {"seconds": artifact.seconds, "num_rows": float(artifact.manifest["num_rows"])}
    found |= {f"dropped/{reason}": float(n) for reason, n in artifact.manifest["dropped"].items()}
    numbers = {n: v for n, v in artifact.facts.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return found | {name: float(value) for name, value in numbers.items()}
