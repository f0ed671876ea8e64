"""Settings of experiment tracking."""

from dataclasses import dataclass, field
from enum import Enum

from cotpress.settings import Natural, Positive


class TrackerKind(Enum):
    """How closely a job is followed; the run directory's `metrics.csv` is written by all of them."""

    none = "none"
    """Nothing while the job runs: at its end `metrics.csv` gets the last value of each metric, and no curves."""
    csv = "csv"
    """Every value as it comes, in `metrics.csv`."""
    wandb = "wandb"
    """As `csv`, and Weights & Biases: offline unless an API key is set."""


class ArtifactKind(Enum):
    """Stage outputs that W&B can keep beside the metrics."""

    adapter = "adapter"
    """What was trained: adapters and whole models, of students and reference models."""
    scores = "scores"
    """Importance of every thinking token."""
    compressed = "compressed"
    """The compressed training data."""


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """Config group `tracker`; all but `kind` is for `kind=wandb`."""

    kind: TrackerKind = TrackerKind.csv
    """How closely the job is followed."""
    project: str = "cotpress"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""
    artifacts: list[ArtifactKind] = field(default_factory=lambda: list(ArtifactKind))
    """Stage outputs that are sent; an empty list sends no files."""
    max_artifact_mb: Positive = 200.0
    """Stage outputs above so many megabytes (10^6 bytes) are not sent; the log says so."""
    table_rows: Natural = 2000
    """Most rows of each table of predictions and of tokens; 0 sends no tables."""
