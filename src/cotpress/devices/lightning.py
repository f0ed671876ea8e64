"""Arguments of `pl.Trainer` for one device and for several, and what its messages and Ctrl-C need."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    LightningEnvironment,
    TorchElasticEnvironment,
)

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import end_on_sigterm, here, pick_device


class _EndOnSigterm(pl.Callback):
    """Replaces Lightning's handler of SIGTERM, which is installed before the training starts."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        end_on_sigterm()


def lightning_settings(
    trainer: TrainerConfig, *, callbacks: Sequence[pl.Callback] = (), strategy: Any = "ddp"
) -> dict[str, Any]:
    """Arguments of `pl.Trainer`: accelerator, devices, cluster environment, callbacks, strategy of several workers.

    The cluster environment is always given: in a SLURM job Lightning would otherwise use the job's number of tasks and
    handle its signals.
    """
    place, device = here(), pick_device(trainer)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    if place.num_workers == 1:
        return {
            "accelerator": accelerator,
            "devices": [device.index or 0] if device.type == "cuda" else 1,
            "callbacks": [*callbacks],
            "plugins": [LightningEnvironment()],
        }
    return {
        "accelerator": accelerator,
        "devices": place.num_local_workers,
        "callbacks": [_EndOnSigterm(), *callbacks],
        "strategy": strategy,
        "plugins": [TorchElasticEnvironment()],  # reads the variables of the place
        "use_distributed_sampler": False,
    }


def one_device_trainer(device: torch.device, **options: Any) -> pl.Trainer:
    """A Lightning trainer of one device, whatever started this process; without logs, checkpoints and bars."""
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        plugins=[LightningEnvironment()],  # else Lightning looks for SLURM
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leave out Lightning's log below warnings; filters of warnings that are added inside are removed at the end.

    Lightning looks for SLURM before it loads a checkpoint even if the cluster environment is given, and warns where
    `srun` is installed but has not started the process; that warning is left out, too.
    """
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def ctrl_c_stops(trainer: pl.Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, where Lightning would exit the process with code 1."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
