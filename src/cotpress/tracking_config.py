"""Settings of experiment tracking."""

from dataclasses import dataclass
from enum import Enum


class TrackerKind(Enum):
    """Where metrics go besides the run directory's metrics.csv."""

    none = "none"
    csv = "csv"
    """metrics.csv only."""
    wandb = "wandb"
    """Weights & Biases; offline unless an API key is set."""


@dataclass(kw_only=True, slots=True)
class TrackerConfig:
    """Config group `tracker`."""

    kind: TrackerKind = TrackerKind.csv
    """Where metrics go."""
    project: str = "cotpress"
    """W&B project."""
    entity: str | None = None
    """W&B team or user."""
