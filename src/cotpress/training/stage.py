"""The two training stages: reference model and student."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cotpress.artifacts import Artifact, ArtifactStore, Summary, plain
from cotpress.devices import run_on_devices
from cotpress.modeling.loading import load_tokenizer, model_identity, pick_device, resolve_dtype
from cotpress.modeling_config import ModelConfig
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace
from cotpress.tables import read_records
from cotpress.tracking import Tracker
from cotpress.trainer_config import TrainerConfig
from cotpress.training.callbacks import Validate
from cotpress.training.config import Method, ReferenceConfig, SftConfig, TuneConfig
from cotpress.training.examples import Examples, reference_examples, student_examples
from cotpress.training.job import Logged, TrainingJob, train_here
from cotpress.training.masters import needs_masters
from cotpress.training.module import NextTokenModule, ReferenceModule, SftModule


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
