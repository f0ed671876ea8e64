"""One fine-tuning run: from examples to trained weights, resumable."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch

from cotpress.errors import TrainingError
from cotpress.tracking import Tracker
from cotpress.trainer_config import TrainerConfig
from cotpress.training.batching import PlanSettings, StepLoader, plan_steps
from cotpress.training.callbacks import TimedCheckpoint, TokenProgress, TrainLog, Validate, Validation
from cotpress.training.config import TuneConfig
from cotpress.training.examples import Example
from cotpress.training.logger import TrackerLogger
from cotpress.training.module import CausalModule, Optimization

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPlan:
    """What is fitted, and how.

    Attributes:
        stage: Name for progress, log and tracker.
        module: Class of the Lightning module.
        scratch: Folder for resumable checkpoints; one left by an interrupted run is picked up.
        validate: Answers validation problems, or None.
        num_validations: How often it is called.
    """

    stage: str
    module: type[CausalModule]
    tune: TuneConfig
    trainer: TrainerConfig
    tracker: Tracker
    scratch: Path
    validate: Validate | None = None
    num_validations: int = 0


def fit(model: torch.nn.Module, examples: list[Example], plan: FitPlan) -> TrainLog:
    """Train `model` in place; what was logged comes back.

    Raises:
        TrainingError: There is nothing to train on, the loss is not finite, or memory ran out.
    """
    if not examples:
        raise TrainingError(
            f"{plan.stage}: no example is left to train on. Fix: more data, or a larger tune.max_tokens "
            f"(got {plan.tune.max_tokens})"
        )
    if plan.trainer.num_threads is not None:
        torch.set_num_threads(plan.trainer.num_threads)
    plan.scratch.mkdir(parents=True, exist_ok=True)
    resume = TimedCheckpoint.newest(plan.scratch)
    if resume is not None:
        log.info("%s: going on from %s", plan.stage, resume.stem)
    with _quiet_lightning():
        trainer = _trainer(plan)
        settings = _plan_settings(plan)
        lengths = [len(e.input_ids) for e in examples]
        steps = plan_steps(lengths, settings, rank=trainer.global_rank, world_size=trainer.world_size)
        module = plan.module(model, _optimization(plan.tune, len(steps)))
        progress = TokenProgress(plan.stage, [sum(lengths[i] for b in step for i in b) for step in steps])
        train_log = TrainLog()
        trainer.callbacks += [progress, train_log]  # type: ignore[attr-defined]
        if plan.validate is not None and plan.num_validations:
            trainer.callbacks.append(Validation(plan.validate, plan.num_validations, len(steps)))  # type: ignore[attr-defined]
        # Last, so that a checkpoint holds what the others noted at the same step.
        trainer.callbacks.append(TimedCheckpoint(plan.scratch, plan.trainer.checkpoint_every_s))  # type: ignore[attr-defined]
        _run(trainer, module, StepLoader(examples, steps), resume, plan.stage)
    plan.tracker.log(plan.stage, {"tokens_per_s": progress.tokens_per_s}, len(steps))
    log.info("%s: %d steps, %.1f tokens/s", plan.stage, len(steps), progress.tokens_per_s)
    return train_log


def _run(trainer: pl.Trainer, module: CausalModule, loader: StepLoader, resume: Path | None, stage: str) -> None:
    try:
        # The checkpoint is our own file: it may hold more than tensors.
        trainer.fit(module, train_dataloaders=loader, ckpt_path=resume, weights_only=False)
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(f"{stage}: out of memory. Fix: lower trainer.tokens_per_batch: {error}") from error
    if trainer.interrupted:
        raise KeyboardInterrupt  # Lightning ends quietly; half a run must not look finished


def _trainer(plan: FitPlan) -> pl.Trainer:
    config = plan.trainer
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        max_epochs=1,
        logger=TrackerLogger(plan.tracker, plan.stage),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the plan already gives every rank its share
        default_root_dir=plan.scratch,
    )


def _plan_settings(plan: FitPlan) -> PlanSettings:
    return PlanSettings(
        epochs=plan.tune.epochs,
        sequences_per_step=plan.tune.sequences_per_step,
        tokens_per_batch=plan.trainer.tokens_per_batch,
        seed=plan.tune.seed,
    )


def _optimization(tune: TuneConfig, num_steps: int) -> Optimization:
    return Optimization(
        learning_rate=tune.learning_rate,
        num_steps=num_steps,
        warmup_fraction=tune.warmup_fraction,
        weight_decay=tune.weight_decay,
        betas=(tune.beta1, tune.beta2),
        max_grad_norm=tune.max_grad_norm,
        seed=tune.seed,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advertisements and its advice on data loaders, which is about another design, out of the log."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in (".*does not have many workers.*", ".*litlogger.*", ".*GPU available but not used.*"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
