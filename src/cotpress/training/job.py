"""One training as every device does it: load, share, fit; the first one saves."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cotpress.artifacts import ArtifactStore
from cotpress.devices import here, report
from cotpress.modeling.loading import load_model, load_tokenizer, pick_device, resolve_dtype
from cotpress.modeling_config import Dtype, ModelConfig
from cotpress.trainer_config import Strategy, TrainerConfig
from cotpress.training.adapters import make_trainable, save_trained
from cotpress.training.callbacks import Validate
from cotpress.training.config import TuneConfig
from cotpress.training.examples import Examples
from cotpress.training.fit import Fitted, fit
from cotpress.training.masters import needs_masters
from cotpress.training.module import NextTokenModule
from cotpress.training.sharded import Sharded
from cotpress.training.sharing import Alone, Replicated, Sharing
from cotpress.training.zero import Zero

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What every device gets; it can be pickled.

    Attributes:
        kind: Which module trains.
        tune: How.
        base: Model it starts from.
        examples: What it learns from.
        trainer: Hardware.
        store: Where models are kept that were converted or generated.
        workdir: The artifact's folder in the making.
        validate: Answers validation problems during training; None leaves that out.
        validations: How often.
    """

    kind: type[NextTokenModule]
    tune: TuneConfig
    base: ModelConfig
    examples: Examples
    trainer: TrainerConfig
    store: ArtifactStore
    workdir: Path
    validate: Validate | None
    validations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """Metrics on their way to the tracker."""

    stage: str
    metrics: Mapping[str, float]
    step: int | None


def train_here(job: TrainingJob) -> Fitted:
    """This device's part of a training; see `run_on_devices`. Metrics are reported as `Logged`."""
    device = pick_device(job.trainer)
    base, computed = _in_format_of(device, job.base), resolve_dtype(job.base.dtype, device)
    sharing = pick_sharing(job.trainer, computed if needs_masters(job.tune, computed) else None)

    def make(place: torch.device) -> Any:
        # One worker checks for all: in main memory, before weights are cut, a pass over a large model takes seconds.
        return make_trainable(load_model(base, job.store, split=here().is_first, device=place), job.tune)

    model = sharing.load(device, make)
    validate = job.validate if sharing.whole else None
    if validate is not job.validate and here().is_first:
        log.info(
            "%s: with trainer.strategy=%s no device holds a whole student, so that no validation problems are answered "
            "during training; the evaluation after it is the same", job.kind.stage, job.trainer.strategy.value,
        )  # fmt: skip
    fitted = fit(
        model, job.kind, job.examples, job.tune,
        workdir=job.workdir, trainer=job.trainer, log_metrics=_report, sharing=sharing, validate=validate,
        validations=job.validations,
    )  # fmt: skip
    with sharing.gathered(model) as weights:
        if here().is_first:
            tokenizer = load_tokenizer(job.base, job.store)
            save_trained(model, tokenizer, job.tune, job.base.path, job.workdir, weights=weights)
    return fitted


def pick_sharing(trainer: TrainerConfig, computed: torch.dtype | None = None) -> Sharing:
    """What `trainer.strategy` stands for, among as many workers as there are; `computed` as in `sharing.Alone`."""
    if here().num_workers == 1:
        return Alone(computed)
    match trainer.strategy:
        case Strategy.ddp:
            return Replicated(computed)
        case Strategy.fsdp2:
            return Sharded(computed)
        case Strategy.deepspeed:
            return Zero()  # which keeps masters of its own


def _report(stage: str, metrics: Mapping[str, float], step: int | None) -> None:
    report(Logged(stage=stage, metrics=metrics, step=step))


def _in_format_of(device: torch.device, base: ModelConfig) -> ModelConfig:
    """The number format is that of the device that trains, wherever weights are loaded first."""
    bfloat16 = resolve_dtype(base.dtype, device) is torch.bfloat16
    return dataclasses.replace(base, dtype=Dtype.bfloat16 if bfloat16 else Dtype.float32)
