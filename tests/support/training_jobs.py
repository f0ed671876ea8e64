"""What tests train with on several devices; importable in the workers, unlike a test module."""

import csv
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import deepspeed
from safetensors.torch import load_file

from cotpress.devices.place import here
from cotpress.training.module import SftModule


class KilledOnce(SftModule):
    """The second worker is killed after the third step, the first time."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        flag = Path(os.environ["TEST_KILLED_ONCE"])
        if batch_idx == 2 and here().rank == 1 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def what_it_is(model: torch.nn.Module) -> Mapping[str, float]:
    """A validation that says who was asked, and whether the model was in training mode."""
    return {"val/rank": float(here().rank), "val/training": float(model.training)}


def number_formats(model: torch.nn.Module) -> Mapping[str, float]:
    """A validation that writes a token, and says whether all weights were in bfloat16."""
    written: Any = model
    logits = written(torch.arange(5).view(1, -1)).logits
    halved = all(p.dtype is torch.bfloat16 for p in model.parameters())
    return {"val/bfloat16": float(halved), "val/finite": float(logits.isfinite().all())}


class OnCpu(SftModule):
    """Lets DeepSpeed run on the CPU, which DeepSpeed can, but Lightning refuses."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        lightning: Any = deepspeed
        lightning.CUDAAccelerator = CPUAccelerator
        lightning._validate_device_index_selection = lambda devices: None
        lightning.DeepSpeedStrategy.root_device = torch.device("cpu", 0)  # it wants an index


class KilledOnceOnCpu(KilledOnce, OnCpu):
    """Both."""


def losses(folder: Path) -> list[tuple[int, float, float, int]]:
    """Step, loss, learning rate and target tokens of every step of a finished training."""
    with (folder / "train_log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    return [(int(r["step"]), float(r["loss"]), float(r["lr"]), int(r["num_target_tokens"])) for r in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a finished training has saved."""
    return load_file(next(folder.glob("*/*.safetensors")))
