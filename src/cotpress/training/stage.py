"""The two fine-tuning stages: the reference model, and the student."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.errors import ConfigError
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity, pick_device
from cotpress.modeling_config import ModelConfig
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace
from cotpress.tables import read_records
from cotpress.tracking import Tracker
from cotpress.trainer_config import TrainerConfig
from cotpress.training.adapters import export, make_trainable
from cotpress.training.callbacks import TrainLog, Validate
from cotpress.training.config import Method, ReferenceConfig, SftConfig, TuneConfig
from cotpress.training.examples import Examples, reference_examples, student_examples
from cotpress.training.fitting import FitPlan, fit
from cotpress.training.module import ReferenceModule, SftModule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VALUABLE_FILE = "valuable.parquet"
COMPRESSED_FILE = "compressed.parquet"
LOG_FILE = "train_log.csv"


def train_reference(
    config: ReferenceConfig, *, distilled: Artifact, trainer: TrainerConfig, tracker: Tracker, store: ArtifactStore
) -> Artifact | None:
    """The reference model, trained on the valuable part of the traces; None if the base model is used as it is.

    Raises:
        TrainingError: There is nothing to train on, or the loss is not finite.
        ModelError: The base model cannot be loaded.
    """
    if config.tune.method is Method.none:
        return None
    identity = _identity(config.base, config.tune, trainer, store) | {"distilled": distilled.key, "limit": config.limit}

    def produce(workdir: Path) -> Summary:
        traces = read_records(distilled.file(VALUABLE_FILE), ValuableTrace)[: config.limit]
        tokenizer = load_tokenizer(config.base, store)
        examples = reference_examples(
            traces, tokenizer, ChatFormat(tokenizer, config.base.chat), _longest(config.base, config.tune)
        )
        plan = FitPlan(
            stage="reference",
            module=ReferenceModule,
            tune=config.tune,
            trainer=trainer,
            tracker=tracker,
            scratch=workdir / SCRATCH,
        )
        return _train(config.base, tokenizer, examples, plan, workdir, store)

    return store.build("reference", identity, produce)


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
    """The student, fine-tuned on compressed traces.

    Args:
        config: How it is trained and validated.
        model: The model it starts from.
        compressed: Output of the compress stage; its `train` rows are used.
        trainer: Hardware; does not change what the artifact is.
        tracker: Takes the metrics.
        store: Where artifacts are kept.
        validate: Answers validation problems with the model in training; None validates nothing.

    Raises:
        ConfigError: `sft.tune.method` is `none`.
        TrainingError: There is nothing to train on, or the loss is not finite.
        ModelError: The base model cannot be loaded.
    """
    if config.tune.method is Method.none:
        raise ConfigError("sft.tune.method: got 'none', allowed: lora, full. Fix: evaluate.py measures untuned models")
    identity = _identity(model, config.tune, trainer, store) | {"compressed": compressed.key}

    def produce(workdir: Path) -> Summary:
        traces = read_records(compressed.file(COMPRESSED_FILE), CompressedTrace)
        tokenizer = load_tokenizer(model, store)
        examples = student_examples(traces, ChatFormat(tokenizer, model.chat), _longest(model, config.tune))
        plan = FitPlan(
            stage="sft",
            module=SftModule,
            tune=config.tune,
            trainer=trainer,
            tracker=tracker,
            scratch=workdir / SCRATCH,
            validate=validate if config.validation_problems else None,
            num_validations=config.validations_per_run,
        )
        return _train(model, tokenizer, examples, plan, workdir, store)

    return store.build("sft", identity, produce)


def _identity(model: ModelConfig, tune: TuneConfig, trainer: TrainerConfig, store: ArtifactStore) -> dict[str, Any]:
    return {
        "model": model_identity(model, store, pick_device(trainer)),
        "chat": model.chat,
        "context_tokens": model.context_tokens,
        "tune": tune,
    }


def _longest(model: ModelConfig, tune: TuneConfig) -> int:
    return min(tune.max_tokens, model.context_tokens)


def _train(
    config: ModelConfig,
    tokenizer: "PreTrainedTokenizerBase",
    examples: Examples,
    plan: FitPlan,
    workdir: Path,
    store: ArtifactStore,
) -> Summary:
    model = make_trainable(load_model(config, store, device=pick_device(plan.trainer)), plan.tune)
    train_log: TrainLog = fit(model, examples.rows, plan)
    export(model, tokenizer, plan.tune, workdir, config.path)
    train_log.write(workdir / LOG_FILE)
    return Summary(
        num_rows=len(examples.rows),
        dropped=examples.dropped,
        facts={
            "num_steps": len(train_log.rows),
            "num_target_tokens": plan.tune.epochs * sum(e.num_targets for e in examples.rows),
            "num_training_tokens": plan.tune.epochs * sum(len(e.input_ids) for e in examples.rows),
            "final_loss": float(f"{train_log.rows[-1][1]:.6g}"),
        },
    )
