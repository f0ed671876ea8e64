"""Modules and validations for tests on several devices; workers can import them, unlike those of a test module."""

import csv
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cotpress.devices.launch import here
from cotpress.training.module import SftModule


class KilledOnce(SftModule):
    """Kills the second worker after the third step, the first time."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        flag = Path(os.environ["TEST_KILLED_ONCE"])
        if batch_idx == 2 and here().rank == 1 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def rank_and_mode(model: torch.nn.Module) -> Mapping[str, float]:
    """A validation that returns the rank of its worker and whether the model is in training mode."""
    return {"val/rank": float(here().rank), "val/training": float(model.training)}


def number_formats(model: torch.nn.Module) -> Mapping[str, float]:
    """A validation that returns whether all weights are bfloat16 and the logits finite."""
    language_model: Any = model
    logits = language_model(torch.arange(5).view(1, -1)).logits
    is_bfloat16 = all(p.dtype is torch.bfloat16 for p in model.parameters())
    return {"val/bfloat16": float(is_bfloat16), "val/finite": float(logits.isfinite().all())}


def losses(folder: Path) -> list[tuple[int, float, float, int]]:
    """Read step, loss, learning rate and target tokens of every step of a finished training."""
    with (folder / "train_log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    return [(int(r["step"]), float(r["loss"]), float(r["lr"]), int(r["num_target_tokens"])) for r in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the saved weights of a finished training."""
    return load_file(next(folder.glob("*/*.safetensors")))
