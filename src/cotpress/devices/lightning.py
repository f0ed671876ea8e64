"""Lightning's Trainer on one device and on several, and what its messages and Ctrl-C need."""

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

from cotpress.devices.launch import here


def lightning_trainer(
    device: torch.device, *, callbacks: Sequence[pl.Callback] = (), strategy: Any = None, **options: Any
) -> pl.Trainer:
    """A Lightning trainer without logs, checkpoints and bars.

    It runs on `device` alone, whatever started this process, or with a strategy on the devices of all workers. The
    cluster environment is always given: in a SLURM job Lightning would otherwise use the job's number of tasks and
    handle its signals.
    """
    several = strategy is not None and here().num_workers > 1
    alone = [device.index or 0] if device.type == "cuda" else 1
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=here().num_local if several else alone,
        num_nodes=here().num_workers // here().num_local if several else 1,
        strategy=strategy if several else "auto",
        plugins=[TorchElasticEnvironment() if several else LightningEnvironment()],
        callbacks=[*callbacks],
        use_distributed_sampler=False,
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
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            yield
    finally:
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
