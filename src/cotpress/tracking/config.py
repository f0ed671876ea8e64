"""Settings of experiment tracking."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from cotpress.settings import Natural, Rule

_ABOVE_0 = Rule(lambda number: number > 0, "a number above 0. Fix: tracker.artifacts=[] sends no files")


class TrackerKind(Enum):
    """Destination and detail of the metrics; each kind writes the run directory's `metrics.csv`."""

    none = "none"
    """The last value of each metric, in `metrics.csv`, written when the job ends; no curves."""
    csv = "csv"
    """Every value at once, in `metrics.csv`."""
    wandb = "wandb"
    """As `csv`, and Weights & Biases: offline unless an API key is set."""


class ArtifactKind(Enum):
    """Stage outputs that W&B can store beside the metrics."""

    adapter = "adapter"
    """Trained adapters and whole models, of students and reference models."""
    scores = "scores"
    """Importance of every thinking token."""
    compressed = "compressed"
    """The compressed training data."""


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """Config group `tracker`; all settings but `kind` are for `kind=wandb`."""

    kind: TrackerKind = TrackerKind.csv
    """Destination and detail of the metrics."""
    project: str = "cotpress"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""
    artifacts: list[ArtifactKind] = field(default_factory=lambda: list(ArtifactKind))
    """Stage outputs that are sent; an empty list sends no files."""
    max_artifact_mb: Annotated[float, _ABOVE_0] = 200.0
    """Largest stage output that is sent, in megabytes (10^6 bytes); the log names larger ones."""
    table_rows: Natural = 2000
    """Most rows of each table of predictions and of tokens; 0 sends no tables."""
