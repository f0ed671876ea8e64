"""The training stages, reference model and student, and reference models that were trained elsewhere.

Call path: `train_student` or `train_reference` -> `ArtifactStore.build` -> `train_here` on every device -> `fit` ->
Lightning, which calls `NextTokenModule.training_step`. The first device saves the result.

The files of a saved reference model are linked, as a full model may take many GB. The identity of its artifact is the
content of the files.
"""

import dataclasses
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cotpress
from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import Alike, here, pick_device, report, run_on_devices
from cotpress.modeling.config import Dtype, ModelConfig
from cotpress.modeling.loading import (
    has_dropout,
    load_model,
    load_tokenizer,
    model_identity,
    resolve_dtype,
    tokenizer_fingerprint,
)
from cotpress.modeling.sources import directory_sha256
from cotpress.modeling.training_record import TRAINING_CONFIG, TrainingRecord
from cotpress.modeling.weights import ADAPTER, MODEL, TrainedWeights
from cotpress.prompts import ChatFormat
from cotpress.records import COMPRESSED_FILE, VALUABLE_FILE, CompressedTrace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, plain, write_text_atomic
from cotpress.store.source import Identity, identified
from cotpress.store.tables import read_records
from cotpress.tracking import Tracker
from cotpress.training.adapters import make_trainable, save_trained
from cotpress.training.batching import Examples, reference_sequences, student_sequences
from cotpress.training.config import Method, Overlong, ReferenceConfig, SftConfig, TuneConfig
from cotpress.training.fit import Fitted, Validate, fit
from cotpress.training.module import NextTokenModule, ReferenceModule, SftModule
from cotpress.training.overlong import left_out, limited, sequence_lengths, set_digest
from cotpress.training.sharing import of_masters, pick_sharing
from cotpress.training.start import Start, check_tokenizer

log = logging.getLogger(__name__)

TOLERATED_SHARE = 0.05
"""Share of sequences that are left out or cut above which the line about them is a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A training that is not yet run; picklable."""

    kind: type[NextTokenModule]
    tune: TuneConfig
    base: ModelConfig
    trainer: TrainerConfig
    store: ArtifactStore
    key: str = "model.path"
    """Setting of the path of `base`, for messages."""
    name: str = ""
    """Name of the student, for messages."""
    validate: Validate | None = None
    validations: int = 0
    start: Start | None = None
    """Weights that it starts from; None for those of `base`."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of a training sequence: those of the recipe, within the model's context."""
        return min(self.tune.max_tokens, self.base.context_tokens)


def train_here(job: TrainingJob, examples: Examples, workdir: Path) -> Fitted:
    """Do this device's part of a training; `report`s metrics as arguments of `Tracker.log`."""
    device = pick_device(job.trainer)
    computed = resolve_dtype(job.base.dtype, device)
    # The number format is that of the device that trains, wherever the weights are loaded first.
    base = dataclasses.replace(job.base, dtype=Dtype.bfloat16 if computed is torch.bfloat16 else Dtype.float32)
    sharing = pick_sharing(job.trainer, of_masters(computed))

    def make(place: torch.device) -> Any:
        load = load_model if job.start is None else job.start.load
        # The check of the head takes seconds on a large model in main memory, so one worker does it for all.
        return make_trainable(load(base, job.store, split=here().is_first, device=place, key=job.key), job.tune)

    model = sharing.load(device, make)
    if job.validate is not None and not sharing.whole and here().is_first:
        log.info(
            "%s: with trainer.strategy=%s no device holds a whole student, so validation problems are not answered "
            "during training; the evaluation after it is the same", job.kind.stage, job.trainer.strategy.value,
        )  # fmt: skip
    fitted = fit(
        model, job.kind, examples, job.tune,
        workdir=workdir, trainer=job.trainer, log_metrics=lambda *metrics: report(metrics), sharing=sharing,
        validate=job.validate if sharing.whole else None, validations=job.validations,
    )  # fmt: skip
    with sharing.gathered(model) as weights:
        if here().is_first:
            tokenizer = load_tokenizer(job.base, job.store)
            save_trained(model, tokenizer, job.tune, job.base.path, workdir, weights=weights)
            if job.start is not None:
                job.start.finish(workdir, base, job.store)
        else:
            deque(weights or (), maxlen=0)
    return fitted


def train_reference(
    config: ReferenceConfig,
    *,
    base: ModelConfig,
    distilled: Artifact,
    trainer: TrainerConfig,
    tracker: Tracker,
    store: ArtifactStore,
    key: str = "model.path",
) -> Artifact | None:
    """The reference model of CTS, trained on `valuable.parquet` (`adapter/` or `model/`); None for method none.

    `key` is the setting of the path of `base`, for messages.
    """
    if config.tune.method is Method.none:
        return None
    job = TrainingJob(kind=ReferenceModule, tune=config.tune, base=base, trainer=trainer, store=store, key=key)
    tokenizer = load_tokenizer(base, store, key=key)
    chat = ChatFormat(tokenizer, base.chat)

    def examples() -> Examples:
        rows = read_records(distilled.file(VALUABLE_FILE), ValuableTrace)[: config.limit]
        return limited(reference_sequences(rows, tokenizer, chat), job.max_tokens, cut=cut)

    cut = config.overlong is Overlong.cut
    upstream = {
        "limit": config.limit,
        "distilled": distilled.key,
        **({"overlong": config.overlong} if cut else {}),
        **chat.opening_identity(),
    }
    return _build(job, identified(upstream, train_reference), examples, tracker, lambda: TrainingRecord.of(base))


def train_student(
    config: SftConfig,
    *,
    model: ModelConfig,
    compressed: Artifact,
    trainer: TrainerConfig,
    tracker: Tracker,
    store: ArtifactStore,
    beside: Sequence[Artifact] = (),
    name: str = "",
    validate: Validate | None = None,
    names: Mapping[str, str] | None = None,
    start: TrainedWeights | None = None,
) -> Artifact:
    """The student, trained on `compressed.parquet` (`adapter/` or `model/`).

    Args:
        config: Its training.
        model: Model that it is trained from.
        compressed: Its traces.
        trainer: Hardware.
        tracker: Receives the metrics.
        store: Store of the artifact.
        beside: Traces of the other systems of the run; with `config.overlong=common` the student is trained only on
            those that it has in common with them.
        name: Its name, for messages.
        validate: Called during the training; picklable.
        names: Those of its `TrainingRecord`.
        start: Weights that it starts from; None for those of `model`.

    Raises:
        ConfigError: The recipe does not fit the start.
        ModelError: The start is no LoRA adapter and no whole model.
    """
    begin = None if start is None else Start.of(start, config)
    job = TrainingJob(
        kind=SftModule, tune=config.tune, base=model, trainer=trainer, store=store, name=name, validate=validate,
        validations=config.validations_per_run if config.validation_problems > 0 else 0, start=begin,
    )  # fmt: skip
    if begin is not None:
        begin.check(config.tune, model, store)
    tokenizer = load_tokenizer(model, store)
    chat, key = ChatFormat(tokenizer, model.chat), tokenizer_fingerprint(tokenizer)
    beside = [other for other in beside if other.key != compressed.key]

    def lengths(traces: Artifact) -> dict[str, int]:
        asked = config.question
        return sequence_lengths(traces, chat, format_=model.chat, tokenizer_key=key, store=store, question=asked)

    # The identity names the effect of the mode on the examples, so that without any the student is the same one.
    without: Mapping[str, str] = {}
    cut, effect = False, {}
    if config.overlong is Overlong.cut and max(lengths(compressed).values(), default=0) > job.max_tokens:
        cut, effect = True, {"overlong": config.overlong.value}
    elif config.overlong is Overlong.common and beside:
        without = left_out(lengths(compressed), [lengths(other) for other in beside], job.max_tokens)
        effect = {"without": set_digest(without)} if without else {}

    def examples() -> Examples:
        rows = read_records(compressed.file(COMPRESSED_FILE), CompressedTrace)
        sequences = student_sequences(rows, chat, question=config.question)
        return limited(sequences, job.max_tokens, cut=cut, without=without)

    begun = {} if begin is None else begin.identity()
    upstream = {"compressed": compressed.key, **effect, **begun, **chat.opening_identity()}
    upstream |= {} if config.question else {"question": False}

    def record() -> TrainingRecord:
        selection = compressed.manifest["identity"].get("plan", {})
        return TrainingRecord.of(model, selection=selection, names=names or {})

    return _build(job, identified(upstream, train_student), examples, tracker, record)


def _build(
    job: TrainingJob,
    upstream: Identity,
    examples: Callable[[], Examples],
    tracker: Tracker,
    record: Callable[[], TrainingRecord],
) -> Artifact:
    """Find or compute the artifact of a training; `upstream` is the part of its identity that the stages differ in."""

    def produce(workdir: Path) -> Summary:
        made = examples()
        _tell(job, made)
        alike = Alike(functools.partial(_models_of, job), job.base.path)
        fitted, *_ = run_on_devices(
            train_here, (job, made, workdir), trainer=job.trainer, on_message=lambda m: _log(tracker, *m), alike=alike
        )
        is_adapter = job.tune.method is Method.lora if job.start is None else job.start.makes_adapter(job.tune)
        weights = workdir / (ADAPTER if is_adapter else MODEL)
        trained = dataclasses.replace(record(), marker_ratios=made.marker_ratios)
        write_text_atomic(weights / TRAINING_CONFIG, trained.text())
        facts = {
            **dataclasses.asdict(fitted),
            "max_tokens": job.max_tokens,
            "num_alone": len(made.kept) + made.num_withheld,
            "num_cut": made.num_cut,
            "traces": set_digest([example.row for example in made.kept]),
        }
        return Summary(num_rows=len(made.kept), dropped=made.dropped, facts=facts)

    identity = Identity({
        "tune": {**plain(job.tune), "max_tokens": job.max_tokens},
        "model": model_identity(job.base, pick_device(job.trainer), key=job.key),
        "chat": job.base.chat,
        **({"tokens_per_batch": job.trainer.tokens_per_batch} if _draws_by_batch(job) else {}),
        **upstream,
    })  # fmt: skip
    return job.store.build(job.kind.stage, identity, produce)


def _models_of(job: TrainingJob) -> dict[str, Any]:
    """Content and number format of the weights that a training starts from, on this machine."""
    model = model_identity(job.base, pick_device(job.trainer), key=job.key)
    return {"model": model, **({} if job.start is None else job.start.identity())}


def _log(tracker: Tracker, stage: str, metrics: Mapping[str, float], step: int) -> None:
    """Hand metrics to the tracker, and log the time of the first optimizer step."""
    if "loss" in metrics:
        _tell_first_step()
    tracker.log(stage, metrics, step)


@functools.cache  # once per process
def _tell_first_step() -> None:
    """Log how long everything before the first optimizer step of the command took."""
    log.info("first optimizer step %.0f s after the command began", time.monotonic() - cotpress.BEGAN)


def _tell(job: TrainingJob, made: Examples) -> None:
    """Log the sequences that are left out or cut, if there are any."""
    num_rows, num_lost, stage = len(made.kept), sum(made.dropped.values()), job.kind.stage
    if not num_lost and not made.num_cut:
        return
    parts = [f"{count} {reason}" for reason, count in made.dropped.items()]
    parts += [f"{made.num_cut} cut at {job.max_tokens} tokens, so without their end token"] if made.num_cut else []
    more = f"; sft.overlong=drop would train on {num_rows + made.num_withheld}" if made.num_withheld else ""
    name = f"{stage} ({job.name})" if job.name else stage
    warned = max(num_lost, made.num_cut) > TOLERATED_SHARE * (num_rows + num_lost)
    line = f"{name}: training on {num_rows} of {num_rows + num_lost} traces; {', '.join(parts)}{more}"
    log.log(logging.WARNING if warned else logging.INFO, "%s", line)


def _draws_by_batch(job: TrainingJob) -> bool:
    """True if the training draws masks of dropout, which depend on the micro-batches."""
    return (job.tune.method is Method.lora and job.tune.lora_dropout > 0) or has_dropout(job.base, job.store)


def saved_reference(folder: Path, *, base: ModelConfig, store: ArtifactStore) -> Artifact:
    """The reference model in `folder` (`adapter/` or `model/`, as the reference stage leaves it).

    Args:
        folder: A PEFT adapter, a whole model (safetensors), or an earlier artifact of the reference stage.
        base: The model that it was trained from; gives the weights below an adapter, the tokenizer and the chat format.
        store: Store of the artifact.

    Raises:
        ModelError: The folder does not exist or holds neither an adapter nor a model.
        ConfigError: The tokenizer of the whole model is not that of the base model.
    """
    weights = TrainedWeights.saved(folder, "reference.path")
    source, kind = Path(weights.path), ADAPTER if weights.is_adapter else MODEL
    if not weights.is_adapter and not check_tokenizer(source, base, store, key="reference.path"):
        log.warning("reference.path: %s has no tokenizer; assuming that of '%s'", source, base.name)

    def produce(workdir: Path) -> Summary:
        (workdir / kind).mkdir(exist_ok=True)
        for file in sorted(source.iterdir()):
            link = workdir / kind / file.name
            # The base may be trusted to run code, this model not.
            if file.is_file() and file.suffix != ".py" and not link.exists():
                link.symlink_to(file.resolve())
        return Summary(num_rows=0, facts={"kind": kind})

    identity = identified({"saved": kind, "content": directory_sha256(source)}, saved_reference)
    return store.build("reference", identity, produce)
