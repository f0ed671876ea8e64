"""The two training stages: reference model and student.

One training as every device does it: load, share, fit; the first one saves.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cotpress.devices.config import Strategy, TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.devices.launch import run_on_devices
from cotpress.devices.place import here, report
from cotpress.modeling.config import Dtype, ModelConfig
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity, resolve_dtype
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, plain
from cotpress.store.tables import read_records
from cotpress.tracking import Tracker
from cotpress.training.adapters import make_trainable, save_trained
from cotpress.training.callbacks import Validate
from cotpress.training.config import Method, ReferenceConfig, SftConfig, TuneConfig
from cotpress.training.examples import Examples, reference_examples, student_examples
from cotpress.training.fit import Fitted, fit
from cotpress.training.masters import needs_masters
from cotpress.training.module import NextTokenModule, ReferenceModule, SftModule
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


def train_reference(
    config: ReferenceConfig,
    *,
    base: ModelConfig,
    distilled: Artifact,
    trainer: TrainerConfig,
    tracker: Tracker,
    store: ArtifactStore,
) -> Artifact | None:
    """The reference model of CTS (`adapter/` or `model/`); None if the base model is to score.

    Args:
        config: How it is trained.
        base: Model it starts from.
        distilled: Artifact with `valuable.parquet`.
        trainer: Hardware.
        tracker: Gets losses.
        store: Where the result goes.
    """
    if config.tune.method is Method.none:
        return None
    tokenizer = load_tokenizer(base, store)
    written = ChatFormat(tokenizer, base.chat)

    def examples() -> Examples:
        rows = read_records(distilled.file("valuable.parquet"), ValuableTrace)[: config.limit]
        return reference_examples(rows, tokenizer, written, _longest(config.tune, base))

    identity = {"limit": config.limit, "distilled": distilled.key, **written.opening_identity()}
    return _train(ReferenceModule, config.tune, base, identity, examples, trainer, tracker, store)


def train_student(
    config: SftConfig,
    *,
    model: ModelConfig,
    compressed: Artifact,
    trainer: TrainerConfig,
    tracker: Tracker,
    store: ArtifactStore,
    validate: Validate | None = None,
) -> Artifact:
    """A student of compressed thinking (`adapter/` or `model/`).

    Args:
        config: How it is trained.
        model: Model it starts from.
        compressed: Artifact with `compressed.parquet`.
        trainer: Hardware.
        tracker: Gets losses and validation metrics.
        store: Where the result goes.
        validate: Answers validation problems during training, can be pickled; None leaves that out.
    """
    written = ChatFormat(load_tokenizer(model, store), model.chat)

    def examples() -> Examples:
        rows = read_records(compressed.file("compressed.parquet"), CompressedTrace)
        return student_examples(rows, written, _longest(config.tune, model))

    identity = {"compressed": compressed.key, **written.opening_identity()}
    validations = config.validations_per_run if config.validation_problems > 0 else 0
    return _train(
        SftModule, config.tune, model, identity, examples, trainer, tracker, store, validate=validate, times=validations
    )


def _longest(tune: TuneConfig, model: ModelConfig) -> int:
    """Tokens of the longest sequence that may be trained on: what is asked for, within the model's context."""
    return min(tune.max_tokens, model.context_tokens)


def _train(
    kind: type[NextTokenModule],
    tune: TuneConfig,
    base: ModelConfig,
    upstream: Mapping[str, Any],
    examples: Callable[[], Examples],
    trainer: TrainerConfig,
    tracker: Tracker,
    store: ArtifactStore,
    *,
    validate: Validate | None = None,
    times: int = 0,
) -> Artifact:
    device = pick_device(trainer)

    def track(logged: Logged) -> None:
        tracker.log(logged.stage, logged.metrics, logged.step)

    def produce(workdir: Path) -> Summary:
        found = examples()
        job = TrainingJob(
            kind=kind, tune=tune, base=base, examples=found, trainer=trainer, store=store, workdir=workdir,
            validate=validate, validations=times,
        )  # fmt: skip
        fitted = run_on_devices(train_here, (job,), trainer=trainer, hear=track)[0]
        return Summary(num_rows=len(found.kept), dropped=found.dropped, facts=dataclasses.asdict(fitted))

    identity = {
        "tune": {**plain(tune), "max_tokens": _longest(tune, base)},
        "model": model_identity(base, store, device),
        "chat": base.chat,
        **({"master": "float32"} if needs_masters(tune, resolve_dtype(base.dtype, device)) else {}),
        **upstream,
    }
    return store.build(kind.stage, identity, produce)
