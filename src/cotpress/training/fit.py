"""One fine-tuning run from examples to trained weights: what the reference model and the student share."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torchdata.stateful_dataloader import StatefulDataLoader

from cotpress.artifacts import SCRATCH
from cotpress.errors import TrainingError
from cotpress.modeling.loading import pick_device
from cotpress.tracking import Tracker
from cotpress.trainer_config import TrainerConfig
from cotpress.training.adapters import checkpointed_activations
from cotpress.training.batching import StepDataset, plan_steps
from cotpress.training.callbacks import (
    LAST,
    ProgressCallback,
    TimedCheckpoint,
    TrackerLogger,
    TrainLog,
    Validate,
    ValidationCallback,
)
from cotpress.training.checkpoints import usable_checkpoint
from cotpress.training.config import TuneConfig
from cotpress.training.examples import Examples
from cotpress.training.head_loss import pick_head_loss
from cotpress.training.module import NextTokenModule, Schedule

log = logging.getLogger(__name__)

TRAIN_LOG = "train_log.csv"


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
    tracker: Tracker,
    validate: Validate | None = None,
    validations: int = 0,
) -> Fitted:
    """Train `model` in place and write `train_log.csv`; resumes from `workdir/scratch` after a kill.

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
    progress = ProgressCallback(f"{kind.stage}: train", step_tokens)
    callbacks: list[pl.Callback] = [train_log, progress, TimedCheckpoint(workdir / SCRATCH, trainer.checkpoint_every_s)]
    if validate is not None and validations > 0:
        callbacks.append(ValidationCallback(validate, len(plan), validations))
    started = time.monotonic()
    with _quiet_lightning(), checkpointed_activations(model, wanted=trainer.activation_checkpointing):
        _run(model, kind, StepDataset(examples.kept, plan), config, callbacks, workdir, trainer, tracker)
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
    tracker: Tracker,
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
    module = kind(model, schedule, pick_head_loss(trainer.head_loss, pick_device(trainer)))
    checkpoint = usable_checkpoint(workdir / SCRATCH / LAST)
    lightning = pl.Trainer(
        accelerator=trainer.accelerator,
        devices=1,
        max_epochs=1,
        logger=TrackerLogger(tracker),
        log_every_n_steps=1,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=workdir / SCRATCH,
    )
    # The plan covers all epochs, so for Lightning the run is one epoch, and a resumed one starts inside it.
    loader = StatefulDataLoader(dataset, batch_size=None, shuffle=False)
    if checkpoint is not None:
        log.info("%s: going on from the last checkpoint", kind.stage)
    try:
        lightning.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning answers Ctrl-C by leaving the process with code 1
        if lightning.interrupted:
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Leave out Lightning's hints about workers, tensor cores and its own logging."""
    loggers = [logging.getLogger(n) for n in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*`is_gradient_checkpointing` is deprecated.*")
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            warnings.filterwarnings("ignore", message=".*found .* module.s. in eval mode.*", category=UserWarning)
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
