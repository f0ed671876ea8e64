"""What tests train with on several devices; importable in the workers, unlike a test module."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cotpress.devices import here
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
