"""What happens around training, one callback each: progress, log, validation, resumable checkpoints."""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from cotpress.devices.place import here
from cotpress.progress import Progress
from cotpress.training.batching import Step
from cotpress.training.module import NextTokenModule

Validate = Callable[[torch.nn.Module], Mapping[str, float]]
"""Gets the model in eval mode; returns metrics such as `val/accuracy` and `val/tokens`."""

LogMetrics = Callable[[str, Mapping[str, float], int | None], None]
"""Gets stage, metrics by name, and optimizer step."""

LAST = "last.ckpt"


class MetricsLogger(Logger):
    """Hands on what modules log on the first device; `stage/name` becomes stage and name."""

    def __init__(self, log: LogMetrics) -> None:
        super().__init__()
        self._log = log

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Lightning asks for one; runs are told apart by their directories."""
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the tracker already has the whole configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass on metrics, grouped by stage."""
        if not here().is_first:
            return
        for name, value in metrics.items():
            stage, found, short = name.partition("/")
            if found:
                self._log(stage, {short: float(value)}, step)


class ProgressCallback(pl.Callback):
    """Tokens done, tokens per second, time left and the loss."""

    def __init__(self, label: str, steps: Sequence[int]) -> None:
        self._label, self._steps = label, steps
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, counting what an interrupted run has done."""
        self._progress = Progress(
            self._label, sum(self._steps), "tokens", done=sum(self._steps[: trainer.global_step])
        ).__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Advance by the step's tokens."""
        assert self._progress is not None
        self._progress.advance(batch.num_tokens, note=f"loss {_logged(trainer, pl_module, 'loss'):.3f}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """End, also after an error."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    @property
    def tokens_per_second(self) -> float:
        """Training speed so far; not a number before training."""
        return math.nan if self._progress is None else self._progress.per_second


class TrainLog(pl.Callback):
    """Loss, learning rate and tokens of every step; survives resuming because it travels in the checkpoint."""

    COLUMNS = ("step", "loss", "lr", "num_target_tokens")

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, int]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Note the step."""
        loss, rate = (_logged(trainer, pl_module, name) for name in ("loss", "lr"))
        self.rows.append((trainer.global_step, loss, rate, batch.num_targets))

    def state_dict(self) -> dict[str, Any]:
        """Rows so far."""
        return {"rows": [list(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Rows of the interrupted run."""
        self.rows = [(int(s), float(a), float(b), int(n)) for s, a, b, n in state_dict["rows"]]

    def write(self, path: Path) -> None:
        """Write the rows as csv."""
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(self.COLUMNS)
            writer.writerows(self.rows)


class ValidationCallback(pl.Callback):
    """Answers validation problems with the student in training, evenly spread and once at the end.

    Of several devices that hold the same student the first one answers, and the others wait for the next step.
    """

    def __init__(self, validate: Validate, num_steps: int, times: int) -> None:
        self._validate = validate
        self._due = {round(num_steps * (k + 1) / times) for k in range(times)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Validate if this step is one of the chosen ones."""
        if trainer.global_step not in self._due or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, NextTokenModule)
        with pl_module.answering() as model:
            metrics = self._validate(model)
        for logger in trainer.loggers:
            logger.log_metrics({f"{pl_module.stage}/{k}": v for k, v in metrics.items()}, trainer.global_step)


class TimedCheckpoint(pl.Callback):
    """A checkpoint to resume from, replaced every so many seconds."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self._path, self._every_s = folder / LAST, every_s
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Save when it is time; a kill while saving leaves the older checkpoint whole."""
        due = time.monotonic() - self._saved >= self._every_s
        if not trainer.strategy.reduce_boolean_decision(due, all=False):  # all devices save together
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(self._path.with_suffix(".new"))
        if trainer.is_global_zero:
            self._path.with_suffix(".new").replace(self._path)
        self._saved = time.monotonic()


def _logged(trainer: pl.Trainer, module: pl.LightningModule, name: str) -> float:
    assert isinstance(module, NextTokenModule)
    return float(trainer.callback_metrics[f"{module.stage}/{name}"])
