"""Lightning's logger interface over the project's tracker."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from cotpress.tracking import Tracker


class TrackerLogger(Logger):
    """Forwards what modules and callbacks log to a tracker, under the name of the stage."""

    def __init__(self, tracker: Tracker, stage: str) -> None:
        super().__init__()
        self._tracker, self._stage = tracker, stage

    @property
    def name(self) -> str:
        """The stage."""
        return self._stage

    @property
    def version(self) -> str:
        """Runs have no versions: a finished stage is never done twice."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Forward metrics; Lightning's own epoch counter means nothing here, a run is one Lightning epoch."""
        own = {k.removeprefix(f"{self._stage}/"): float(v) for k, v in metrics.items() if k != "epoch"}
        self._tracker.log(self._stage, own, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run directory holds the whole resolved configuration."""
