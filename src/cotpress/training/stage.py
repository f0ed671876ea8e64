"""The two training stages, reference model and student.

Call path: `train_student` or `train_reference` -> `ArtifactStore.build` -> `train_here` on every device -> `fit` ->
Lightning, which calls `NextTokenModule.training_step`. The first device saves the result.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.devices.launch import here, report, run_on_devices
from cotpress.modeling.config import Dtype, ModelConfig
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity, resolve_dtype
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, plain
from cotpress.store.tables import read_records
from cotpress.tracking import Tracker
from cotpress.training.adapters import make_trainable, save_trained
from cotpress.training.config import Method, ReferenceConfig, SftConfig, TuneConfig
from cotpress.training.examples import Examples, reference_examples, student_examples
from cotpress.training.fit import Fitted, Validate, fit
from cotpress.training.masters import needs_masters
from cotpress.training.module import NextTokenModule, ReferenceModule, SftModule
from cotpress.training.sharing import pick_sharing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A training that is not yet run; picklable.

    Attributes:
        kind: Module that trains.
        tune: Recipe.
        base: Model that is trained.
        trainer: Hardware.
        store: Store of the result, and of converted and generated models.
        validate: Answers validation problems during training; None leaves that out.
        validations: Number of validations.
    """

    kind: type[NextTokenModule]
    tune: TuneConfig
    base: ModelConfig
    trainer: TrainerConfig
    store: ArtifactStore
    validate: Validate | None = None
    validations: int = 0

    @property
    def max_tokens(self) -> int:
        """Most tokens of a training sequence: those of the recipe, within the model's context."""
        return min(self.tune.max_tokens, self.base.context_tokens)


def train_here(job: TrainingJob, examples: Examples, workdir: Path) -> Fitted:
    """Do this device's part of a training; `report`s metrics as arguments of `Tracker.log`."""
    device = pick_device(job.trainer)
    computed = resolve_dtype(job.base.dtype, device)
    # The number format is that of the device that trains, wherever the weights are loaded first.
    dtype = Dtype.bfloat16 if computed is torch.bfloat16 else Dtype.float32
    base = dataclasses.replace(job.base, dtype=dtype)
    sharing = pick_sharing(job.trainer, computed if needs_masters(job.tune, computed) else None)

    def make(place: torch.device) -> Any:
        # The check of the head takes seconds on a large model in main memory, so one worker does it for all.
        return make_trainable(load_model(base, job.store, split=here().is_first, device=place), job.tune)

    model = sharing.load(device, make)
    validate = job.validate if sharing.whole else None
    if validate is not job.validate and here().is_first:
        log.info(
            "%s: with trainer.strategy=%s no device holds a whole student, so validation problems are not answered "
            "during training; the evaluation after it is the same", job.kind.stage, job.trainer.strategy.value,
        )  # fmt: skip
    fitted = fit(
        model, job.kind, examples, job.tune,
        workdir=workdir, trainer=job.trainer, log_metrics=lambda *metrics: report(metrics), sharing=sharing,
        validate=validate, validations=job.validations,
    )  # fmt: skip
    with sharing.gathered(model) as weights:
        if here().is_first:
            tokenizer = load_tokenizer(job.base, job.store)
            save_trained(model, tokenizer, job.tune, job.base.path, workdir, weights=weights)
    return fitted


def train_reference(
    config: ReferenceConfig,
    *,
    base: ModelConfig,
    distilled: Artifact,
    trainer: TrainerConfig,
    tracker: Tracker,
    store: ArtifactStore,
) -> Artifact | None:
    """The reference model of CTS (`adapter/` or `model/`); None if the base model itself scores.

    Args:
        config: Settings.
        base: Model that is trained.
        distilled: Artifact with `valuable.parquet`.
        trainer: Hardware.
        tracker: Tracker of the losses.
        store: Store of the result.
    """
    if config.tune.method is Method.none:
        return None
    job = TrainingJob(kind=ReferenceModule, tune=config.tune, base=base, trainer=trainer, store=store)
    tokenizer = load_tokenizer(base, store)
    chat = ChatFormat(tokenizer, base.chat)

    def examples() -> Examples:
        rows = read_records(distilled.file("valuable.parquet"), ValuableTrace)[: config.limit]
        return reference_examples(rows, tokenizer, chat, job.max_tokens)

    identity = {"limit": config.limit, "distilled": distilled.key, **chat.opening_identity()}
    return _build(job, identity, examples, tracker)


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
    """The student, trained on compressed thinking (`adapter/` or `model/`).

    Args:
        config: Settings.
        model: Model that is trained.
        compressed: Artifact with `compressed.parquet`.
        trainer: Hardware.
        tracker: Tracker of losses and validation metrics.
        store: Store of the result.
        validate: Answers validation problems during training; picklable; None leaves that out.
    """
    job = TrainingJob(
        kind=SftModule, tune=config.tune, base=model, trainer=trainer, store=store, validate=validate,
        validations=config.validations_per_run if config.validation_problems > 0 else 0,
    )  # fmt: skip
    chat = ChatFormat(load_tokenizer(model, store), model.chat)

    def examples() -> Examples:
        rows = read_records(compressed.file("compressed.parquet"), CompressedTrace)
        return student_examples(rows, chat, job.max_tokens)

    return _build(job, {"compressed": compressed.key, **chat.opening_identity()}, examples, tracker)


def _build(
    job: TrainingJob, upstream: Mapping[str, Any], examples: Callable[[], Examples], tracker: Tracker
) -> Artifact:
    """Find or compute the artifact of a training; `upstream` is the part of its identity that the stages differ in."""

    def produce(workdir: Path) -> Summary:
        made = examples()
        arguments = (job, made, workdir)
        fitted = run_on_devices(train_here, arguments, trainer=job.trainer, on_message=lambda m: tracker.log(*m))[0]
        return Summary(num_rows=len(made.kept), dropped=made.dropped, facts=dataclasses.asdict(fitted))

    device = pick_device(job.trainer)
    identity = {
        "tune": {**plain(job.tune), "max_tokens": job.max_tokens},
        "model": model_identity(job.base, job.store, device),
        "chat": job.base.chat,
        **({"master": "float32"} if needs_masters(job.tune, resolve_dtype(job.base.dtype, device)) else {}),
        **upstream,
    }
    return job.store.build(job.kind.stage, identity, produce)
