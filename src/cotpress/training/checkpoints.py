"""Checkpoints that a training resumes from: written every so many seconds, checked before they are used.

A checkpoint holds the trained parameters as whole tensors, their optimizer states and the position in the data, in
torch's own format, whatever the strategy. So an interrupted run resumes with any strategy on any number of devices.
"""

import logging
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cotpress.errors import TrainingError

log = logging.getLogger(__name__)

LAST = "last.ckpt"


class TimedCheckpoint(pl.Callback):
    """Replaces the checkpoint every so many seconds."""

    def __init__(self, folder: Path, every_s: float) -> None:
        self._path, self._every_s = folder / LAST, every_s
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, memory-mapped: the workers of a machine share its pages."""
    checkpoint: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    return checkpoint


def resume_point(checkpoint: Path) -> Path | None:
    """The checkpoint to resume from; None if there is no undamaged one.

    Objects other than numbers, texts and containers are never unpickled from it. A damaged file is removed:
    `torch.save` writes a zip with a checksum of every tensor, which `torch.load` does not verify.

    Raises:
        TrainingError: It holds other objects.
    """
    if not checkpoint.is_file():
        return None
    try:
        with zipfile.ZipFile(checkpoint) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        damaged = str(error)
    if damaged is not None:
        log.warning(
            "the checkpoint '%s' is damaged (%s): it is removed, and the training starts anew", checkpoint, damaged
        )
        checkpoint.unlink(missing_ok=True)
        return None
    try:
        read_checkpoint(checkpoint)
    except Exception as error:  # pickle and torch each raise their own
        reason = str(error).partition("\n")[0].partition(". In PyTorch")[0]
        raise TrainingError(
            f"the checkpoint '{checkpoint}' cannot be used: it holds objects that could run code "
            f"({type(error).__name__}: {reason}). Fix: remove it; training then starts anew"
        ) from error
    return checkpoint
