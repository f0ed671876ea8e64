"""Settings of experiment tracking."""

from dataclasses import dataclass, field
from enum import Enum

from cotpress.settings import Natural, Positive


class TrackerKind(Enum):
    """Amounts of tracking; each writes `metrics.csv` in the run directory."""

    none = "none"
    """The last value of each metric, written to `metrics.csv` at the end of the job."""
    csv = "csv"
    """Every value, written to `metrics.csv` during the job."""
    wandb = "wandb"
    """As `csv`, and Weights & Biases: offline unless an API key is set."""


class ArtifactKind(Enum):
    """Stage outputs that can be sent to W&B."""

    adapter = "adapter"
    """Trained adapters and whole models, of students and reference models."""
    scores = "scores"
    """Importance of every thinking token."""
    compressed = "compressed"
    """The compressed training data."""


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """Config group `tracker`; all settings but `kind` apply to `kind=wandb`."""

    kind: TrackerKind = TrackerKind.csv
    """Amount of tracking."""
    project: str = "cotpress"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""
    artifacts: list[ArtifactKind] = field(default_factory=lambda: list(ArtifactKind))
    """Stage outputs that are sent; an empty list sends none."""
    max_artifact_mb: Positive = 200.0
    """Largest stage output that is sent, in megabytes (10^6 bytes); the log names those that are not."""
    table_rows: Natural = 2000
    """Maximum rows of each table of predictions and of tokens; 0 sends no tables."""
