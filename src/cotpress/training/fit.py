"""One fine-tuning run from examples to trained weights, shared by the reference model and the student.

It goes on from its checkpoint (`training.checkpoints`) after a kill, and saves one when SIGTERM or Ctrl-C stops it.
"""

import csv
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import here, pick_device
from cotpress.devices.lightning import ctrl_c_stops, lightning_trainer, quiet_lightning
from cotpress.devices.stopping import StopRequest
from cotpress.errors import TrainingError
from cotpress.modeling.loading import check_ids, split_head
from cotpress.modeling.packing import packing_obstacle
from cotpress.progress import Progress
from cotpress.records import TRAIN_LOG_FILE, VALIDATION_FILE
from cotpress.store.artifacts import SCRATCH
from cotpress.training.adapters import checkpointed_activations
from cotpress.training.batching import Examples, Step, StepDataset, plan_steps
from cotpress.training.checkpoints import Checkpoints, resume_point
from cotpress.training.config import TuneConfig
from cotpress.training.head_loss import pick_head_loss
from cotpress.training.module import NextTokenModule
from cotpress.training.sharing import OneDevice

log = logging.getLogger(__name__)

Validate = Callable[[torch.nn.Module], Mapping[str, float]]
"""Takes the model in eval mode; returns metrics such as `val/accuracy` and `val/tokens`."""

LogMetrics = Callable[[str, Mapping[str, float], int], None]
"""Takes stage, metrics by name, and optimizer step."""

_HINTS = (
    ".*does not have many workers.*",
    ".*`is_gradient_checkpointing` is deprecated.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*found .* module.s. in eval mode.*",
    ".*torch.distributed is disabled, unavailable or uninitialized.*",
    ".*Total length of .* across ranks is zero.*",
)
"""Hints of Lightning, transformers and torch that do not apply: the rows of a step are already in memory, a single
process saves its checkpoints without others, and a run that was stopped after its last step has no more steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Facts of a run for its manifest; the same on every repetition."""

    num_steps: int
    num_training_tokens: int
    """Tokens of one epoch, prompts included."""
    num_target_tokens: int
    """Those of them that have a loss."""
    final_loss: float
    """Mean loss of the last tenth of the steps, in nats per token."""


def fit(
    model: Any,
    kind: type[NextTokenModule],
    examples: Examples,
    config: TuneConfig,
    *,
    workdir: Path,
    trainer: TrainerConfig,
    log_metrics: LogMetrics,
    sharing: OneDevice | None = None,
    validate: Validate | None = None,
    validations: int = 0,
) -> Fitted:
    """Train `model` in place and write `train_log.csv`, and `validation_log.csv` if it is validated.

    Resumes from `workdir/scratch` after a kill.

    Every worker of `run_on_devices` calls it, with a model that `sharing` has loaded.

    Raises:
        TrainingError: There is no example, or the loss is not finite.
        ConfigError: The hardware or the model does not support a setting of `trainer`.
    """
    if not examples.kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in examples.dropped.items()) or "none"
        raise TrainingError(
            f"{kind.stage}: no example to train on; left out: {reasons}. Fix: shorter traces, a larger "
            f"{kind.stage}.tune.max_tokens (within model.context_tokens), or {kind.stage}.overlong=cut"
        )
    sharing, device = sharing or OneDevice(), pick_device(trainer)
    lengths = [len(e.ids) for e in examples.kept]
    check_ids(model, [max(e.ids) for e in examples.kept], f"{kind.stage}: a training sequence")
    obstacle = packing_obstacle(split_head(model).decoder)
    if obstacle is not None and here().is_first:
        log.info("%s: the model %s, so every text is a row of its own", kind.stage, obstacle)
    plan = plan_steps(lengths, config, trainer.tokens_per_batch if obstacle is None else 1)
    step_tokens = [sum(lengths[i] for batch in step for i in batch) for step in plan]
    log_stage, started = partial(log_metrics, kind.stage), time.monotonic()
    train_log = TrainLog(log_stage)
    callbacks: list[pl.Callback] = [train_log]
    if here().is_first:
        callbacks.append(_ProgressBar(f"{kind.stage}: train", step_tokens))
    if validate is not None and validations > 0:
        callbacks.append(_Validation(validate, len(plan), validations, train_log))
    start, stop = resume_point(workdir / SCRATCH), StopRequest()
    if start is not None:
        log.info("%s: going on from the last checkpoint, after step %d of %d", kind.stage, start.step, len(plan))
        train_log.load(start.log)
    # The last one, so that it saves what the others have noted of a step.
    callbacks.append(Checkpoints(workdir / SCRATCH, trainer.checkpoint_every_s, start, train_log.content))
    with quiet_lightning(), checkpointed_activations(model, enabled=trainer.activation_checkpointing):
        for hint in _HINTS:
            warnings.filterwarnings("ignore", message=hint)
        loss = pick_head_loss(trainer.head_loss, device, weighted=any(e.has_soft_weights for e in examples.kept))
        module = kind(model, config, len(plan), loss, sharing, stop)
        lightning = lightning_trainer(
            device,
            callbacks=callbacks,
            strategy=sharing.strategy(),
            max_epochs=1,  # the plan covers all epochs
            default_root_dir=workdir / SCRATCH,
        )
        steps = StepDataset(examples.kept, plan, here(), done=0 if start is None else start.step)
        with ctrl_c_stops(lightning), stop.noted():
            lightning.fit(module, DataLoader(steps, batch_size=None, shuffle=False))
    if here().is_first:
        train_log.write(workdir)
    seconds = time.monotonic() - started
    log.info("%s: %d steps, %d tokens in %.0f s", kind.stage, len(plan), sum(step_tokens), seconds)
    tail = [loss for _, loss, *_ in train_log.rows[-max(len(train_log.rows) // 10, 1) :]]
    return Fitted(
        num_steps=len(plan),
        num_training_tokens=sum(lengths),
        num_target_tokens=sum(e.num_targets for e in examples.kept),
        final_loss=sum(tail) / len(tail),
    )


def _steps(module: pl.LightningModule) -> int:
    """Finished optimizer steps."""
    assert isinstance(module, NextTokenModule)
    return module.steps_done


class _ProgressBar(pl.Callback):
    """Shows tokens done, tokens per second, time left and the loss."""

    def __init__(self, label: str, steps: Sequence[int]) -> None:
        self._label, self._steps = label, steps
        self._progress: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        done = sum(self._steps[: _steps(pl_module)])  # of an interrupted run
        self._progress = Progress(self._label, sum(self._steps), "tokens", done=done).__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        assert self._progress is not None
        self._progress.advance(batch.num_tokens, note=f"loss {float(trainer.callback_metrics['loss']):.3f}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None


class TrainLog(pl.Callback):
    """Loss, learning rate and target tokens by step, and validations; checkpoints hold them for a resumed run."""

    def __init__(self, log_stage: Callable[..., None]) -> None:
        self._log_stage = log_stage
        self.rows: list[list[float]] = []
        self.validations: list[list[Any]] = []
        """Step, name and value."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        """Record the step."""
        loss, rate = (float(trainer.callback_metrics[name]) for name in ("loss", "lr"))
        self.rows.append([_steps(pl_module), loss, rate, batch.num_targets])
        if trainer.is_global_zero:
            self._log_stage({"loss": loss, "lr": rate}, _steps(pl_module))

    def validated(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of a validation after a step."""
        self.validations += [[step, name, float(value)] for name, value in metrics.items()]
        self._log_stage(metrics, step)

    def content(self) -> dict[str, Any]:
        """The rows so far as JSON values; those of later steps are not added to it."""
        return {"rows": [*self.rows], "validations": [*self.validations]}

    def load(self, content: Mapping[str, Any]) -> None:
        """Begin with the rows of the interrupted run."""
        self.rows, self.validations = list(content["rows"]), list(content["validations"])

    def write(self, folder: Path) -> None:
        """Write the rows as csv files."""
        _write_csv(folder / TRAIN_LOG_FILE, ("step", "loss", "lr", "num_target_tokens"), self.rows)
        if self.validations:
            _write_csv(folder / VALIDATION_FILE, ("step", "name", "value"), self.validations)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, lineterminator="\n").writerows([columns, *rows])


class _Validation(pl.Callback):
    """Answers validation problems on the first device, at steps spread evenly over the training and at its end."""

    def __init__(self, validate: Validate, num_steps: int, times: int, train_log: TrainLog) -> None:
        self._validate, self._train_log = validate, train_log
        self._due = {round(num_steps * (k + 1) / times) for k in range(times)}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Step, batch_idx: int
    ) -> None:
        if _steps(pl_module) not in self._due or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, NextTokenModule)
        with pl_module.answering() as model:
            metrics = self._validate(model)
        self._train_log.validated(metrics, _steps(pl_module))
