"""What training does on the side, one class each: progress, log, resumable checkpoints, validation."""

import csv
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cotpress.progress import Progress

Validate = Callable[[torch.nn.Module], Mapping[str, float]]
"""Answers validation problems with the model as it is; names and values of metrics."""


class TokenProgress(pl.Callback):
    """Shows progress in training tokens, with throughput and loss.

    Attributes:
        tokens_per_s: Training tokens per second of this call, padding not counted.
    """

    def __init__(self, label: str, step_tokens: Sequence[int]) -> None:
        self._label, self._step_tokens = label, step_tokens
        self._progress: Progress | None = None
        self.tokens_per_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar, with what an interrupted run has done already."""
        done = sum(self._step_tokens[: trainer.global_step])
        if trainer.is_global_zero:
            self._progress = Progress(self._label, sum(self._step_tokens), "tokens", done).__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by the step's tokens."""
        if self._progress is not None:
            self._progress.advance(self._step_tokens[batch_idx], f"loss {float(outputs['loss']):.3f}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error message stands alone."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self.tokens_per_s = self._progress.per_second
            self._progress.__exit__(None, None, None)
            self._progress = None


class TrainLog(pl.Callback):
    """Keeps one row per optimizer step, also over interruptions; without wall times, so equal runs log alike."""

    columns = ("step", "loss", "learning_rate", "num_target_tokens")

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, int]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the step."""
        values = (float(outputs["loss"]), float(outputs["learning_rate"]), int(outputs["num_target_tokens"]))
        self.rows.append((batch_idx + 1, *values))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the stored rows."""
        self.rows = [tuple(row) for row in state_dict["rows"]]

    def write(self, path: Path) -> None:
        """Write the rows as csv."""
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows((step, f"{loss:.6g}", f"{rate:.6g}", count) for step, loss, rate, count in self.rows)


class TimedCheckpoint(pl.Callback):
    """Saves what is needed to resume every so many seconds; an interruption costs at most that much work."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self._folder, self._every_s = folder, every_s
        self._last = time.monotonic()

    @staticmethod
    def newest(folder: Path) -> Path | None:
        """The last complete checkpoint in `folder`, if any."""
        return max(folder.glob("step-*.ckpt"), default=None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time; rank 0's clock decides, since saving is a common act of all ranks."""
        if not trainer.strategy.broadcast(time.monotonic() - self._last >= self._every_s):
            return
        writing = self._folder / "writing.ckpt"
        final = self._folder / f"step-{batch_idx + 1:08d}.ckpt"
        trainer.save_checkpoint(writing)
        if trainer.is_global_zero:
            writing.rename(final)  # a checkpoint under its final name is complete
            for old in self._folder.glob("step-*.ckpt"):
                if old != final:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
        trainer.strategy.barrier()
        self._last = time.monotonic()


class Validation(pl.Callback):
    """Answers validation problems a few times, evenly spread, the last time at the end of training."""

    def __init__(self, validate: Validate, num_validations: int, num_steps: int) -> None:
        self._validate = validate
        self._steps = {round(num_steps * (i + 1) / num_validations) for i in range(num_validations)} - {0}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate if this step is one of the chosen ones."""
        if batch_idx + 1 not in self._steps or not trainer.is_global_zero:
            return
        model: Any = pl_module.model
        model.eval()
        try:
            metrics = self._validate(model)
        finally:
            model.train()
        if trainer.logger is not None:
            trainer.logger.log_metrics({f"val/{name}": value for name, value in metrics.items()}, batch_idx + 1)
