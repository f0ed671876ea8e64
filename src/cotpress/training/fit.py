"""One fine-tuning run from examples to trained weights: what the reference model and the student share.

Where an interrupted training goes on.
"""

import logging
import time
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torchdata.stateful_dataloader import StatefulDataLoader

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.devices.lightning import ctrl_c_stops, lightning_settings, quiet_lightning
from cotpress.devices.place import here
from cotpress.errors import TrainingError
from cotpress.store.artifacts import SCRATCH
from cotpress.training.adapters import checkpointed_activations
from cotpress.training.batching import StepDataset, plan_steps
from cotpress.training.callbacks import (
    LAST,
    LogMetrics,
    MetricsLogger,
    ProgressCallback,
    TimedCheckpoint,
    TrainLog,
    Validate,
    ValidationCallback,
)
from cotpress.training.config import TuneConfig
from cotpress.training.examples import Examples
from cotpress.training.head_loss import pick_head_loss
from cotpress.training.module import NextTokenModule, Schedule
from cotpress.training.sharing import Alone, Sharing

log = logging.getLogger(__name__)


def resume_point(checkpoint: Path) -> Path | None:
    """The checkpoint to go on from, None if there is none that is whole.

    It is opened here once (memory-mapped, so it costs no second copy of the weights) to tell what is wrong with one
    that cannot be used. Objects other than numbers, texts and containers are never unpickled from it.

    Raises:
        TrainingError: It holds other objects.
    """
    if not _is_whole(checkpoint):
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, memory-mapped: the workers of a machine share its pages."""
    import torch

    checkpoint: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    return checkpoint


def _is_whole(path: Path) -> bool:
    """True if the checkpoint is there and whole; a damaged one is removed, and the log says so.

    `torch.save` writes a zip with a checksum of every tensor, which `torch.load` does not look at.
    """
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        damaged = str(error)
    if damaged is None:
        return True
    log.warning("the checkpoint '%s' is damaged (%s): it is removed, and the training begins anew", path, damaged)
    path.unlink(missing_ok=True)
    return False


TRAIN_LOG = "train_log.csv"
_HINTS = (
    ".*does not have many workers.*",
    ".*`is_gradient_checkpointing` is deprecated.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*found .* module.s. in eval mode.*",
)
"""Lightning's hints that do not apply: each batch is one step's rows, made ready in no time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a run has to say about itself; the same on every repetition.

    Attributes:
        num_steps: Optimizer steps.
        num_training_tokens: Tokens of one epoch, prompts included.
        num_target_tokens: Tokens of one epoch that have a loss.
        final_loss: Mean loss of the last tenth of the steps, in nats per token.
    """

    num_steps: int
    num_training_tokens: int
    num_target_tokens: int
    final_loss: float


def fit(
    model: Any,
    kind: type[NextTokenModule],
    examples: Examples,
    config: TuneConfig,
    *,
    workdir: Path,
    trainer: TrainerConfig,
    log_metrics: LogMetrics,
    sharing: Sharing | None = None,
    validate: Validate | None = None,
    validations: int = 0,
) -> Fitted:
    """Train `model` in place and write `train_log.csv`; resumes from `workdir/scratch` after a kill.

    Every worker of `run_on_devices` calls it, with a model that `sharing` has loaded; outside of it, there is one.

    Raises:
        TrainingError: There is nothing to train on, or the loss is not finite.
        ConfigError: The hardware or the model cannot do what `trainer` asks for.
    """
    if not examples.kept:
        raise TrainingError(f"{kind.stage}: no example to train on; dropped: {examples.dropped or 'none'}")
    lengths = [len(e.ids) for e in examples.kept]
    plan = plan_steps(
        lengths,
        sequences_per_step=config.sequences_per_step,
        epochs=config.epochs,
        tokens_per_batch=trainer.tokens_per_batch,
        seed=config.seed,
    )
    train_log = TrainLog()
    step_tokens = [sum(lengths[i] for batch in step for i in batch) for step in plan]
    callbacks: list[pl.Callback] = [train_log, TimedCheckpoint(workdir / SCRATCH, trainer.checkpoint_every_s)]
    if here().is_first:
        callbacks.append(ProgressCallback(f"{kind.stage}: train", step_tokens))
    if validate is not None and validations > 0:
        callbacks.append(ValidationCallback(validate, len(plan), validations))
    started = time.monotonic()
    with quiet_lightning(), checkpointed_activations(model, wanted=trainer.activation_checkpointing):
        for hint in _HINTS:
            warnings.filterwarnings("ignore", message=hint)
        dataset = StepDataset(examples.kept, plan, here())
        _run(model, kind, dataset, config, callbacks, workdir, trainer, log_metrics, sharing or Alone())
    if here().is_first:
        train_log.write(workdir / TRAIN_LOG)
    seconds = time.monotonic() - started
    log.info("%s: %d steps, %d tokens in %.0f s", kind.stage, len(plan), sum(step_tokens), seconds)
    tail = train_log.rows[-max(len(train_log.rows) // 10, 1) :]
    return Fitted(
        num_steps=len(plan),
        num_training_tokens=examples.num_tokens,
        num_target_tokens=sum(e.num_targets for e in examples.kept),
        final_loss=sum(row[1] for row in tail) / len(tail),
    )


def _run(
    model: Any,
    kind: type[NextTokenModule],
    dataset: StepDataset,
    config: TuneConfig,
    callbacks: list[pl.Callback],
    workdir: Path,
    trainer: TrainerConfig,
    log_metrics: LogMetrics,
    sharing: Sharing,
) -> None:
    schedule = Schedule(
        learning_rate=config.learning_rate,
        num_steps=len(dataset),
        warmup_fraction=config.warmup_fraction,
        weight_decay=config.weight_decay,
        betas=(config.beta1, config.beta2),
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
    )
    module = kind(model, schedule, pick_head_loss(trainer.head_loss, pick_device(trainer)), sharing)
    checkpoint = resume_point(workdir / SCRATCH / LAST)
    lightning = pl.Trainer(
        **lightning_settings(trainer, callbacks=callbacks, strategy=sharing.strategy(config.max_grad_norm)),
        max_epochs=1,
        logger=MetricsLogger(log_metrics),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=workdir / SCRATCH,
    )
    # The plan covers all epochs, so for Lightning the run is one epoch, and a resumed one starts inside it.
    loader = StatefulDataLoader(dataset, batch_size=None, shuffle=False)
    if checkpoint is not None:
        log.info("%s: going on from the last checkpoint", kind.stage)
    with ctrl_c_stops(lightning):
        lightning.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
