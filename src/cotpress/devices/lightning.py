"""What `pl.Trainer` has to be told about the devices, in a worker or in the only process."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import TorchElasticEnvironment  # type: ignore[attr-defined]

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.devices.place import here
from cotpress.devices.worker import die_at_once


class _DieAtOnce(pl.Callback):
    """Lightning puts its own signal handlers in place before each of these."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        die_at_once()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        die_at_once()


def lightning_settings(
    trainer: TrainerConfig, *, callbacks: Sequence[pl.Callback] = (), strategy: Any = "ddp"
) -> dict[str, Any]:
    """Arguments of `pl.Trainer`: accelerator, devices, callbacks, and with several workers strategy, nodes and more.

    Args:
        trainer: The hardware.
        callbacks: Those of the caller.
        strategy: Name or object of the Lightning strategy of several workers.
    """
    place = here()
    accelerator = "gpu" if pick_device(trainer).type == "cuda" else "cpu"
    if place.num_workers == 1:
        return {"accelerator": accelerator, "devices": 1, "callbacks": [*callbacks]}
    return {
        "accelerator": accelerator,
        "devices": place.num_local_workers,
        "num_nodes": place.num_workers // place.num_local_workers,
        "callbacks": [_DieAtOnce(), *callbacks],
        "strategy": strategy,
        "plugins": [TorchElasticEnvironment()],
        "use_distributed_sampler": False,
    }


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leave out Lightning's own logging; filters of warnings that are added inside end with it."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@contextmanager
def ctrl_c_stops(trainer: pl.Trainer) -> Iterator[None]:
    """Make a KeyboardInterrupt of Lightning's answer to Ctrl-C, which is to leave the process with code 1."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
