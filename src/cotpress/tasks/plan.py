"""What `python train.py ... plan=true` does: says what the run would take, and ends. No weights are loaded.

One table of memory for every model that would be trained, with every strategy on 1 to 8 devices, one for what only
runs a model, and one of GPU hours. The numbers come from `cotpress.planning`.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cotpress.config import TrainConfig
from cotpress.data.config import PlantedDataConfig, SelfWrittenDataConfig
from cotpress.evaluation.config import Baseline
from cotpress.modeling.config import ModelConfig
from cotpress.planning.hours import Work, generation_work, scoring_work, training_work
from cotpress.planning.inference import Reading, generation_usage, scoring_usage
from cotpress.planning.settings import longest_sequence, place_of, room_of, setting_of, value_bytes
from cotpress.planning.shapes import shape_of
from cotpress.planning.tables import Training, Use, show_hours, show_training, show_uses
from cotpress.planning.workload import UNKNOWN_TRACES, lengths_of, num_problems, num_traces
from cotpress.scoring.table import num_passes
from cotpress.training.config import Method, SavedReferenceConfig, TuneConfig


def plan(config: TrainConfig, folder: Path) -> tuple[None, None]:
    """`train.py plan=true`: writes the tables to standard output; there is no run directory."""
    room, place = room_of(config.planning), place_of(config.trainer)
    for training in trainings(config):
        show_training(training, place, room, sys.stdout)
    show_uses(list(uses(config)), room, sys.stdout)
    show_hours(list(work(config)), config.planning, unknown(config), sys.stdout)
    return None, None


def trainings(config: TrainConfig) -> list[Training]:
    """What would be trained: the reference model, if the scorer needs one, and the student; once if they are alike."""
    student = _training("student", config.model, config.sft.tune, config)
    if not _trains_reference(config):
        return [student]
    reference = _training("reference model", _base(config), config.reference.tune, config)
    if replace(reference, name="") == replace(student, name=""):
        return [replace(student, name=f"reference model and {student.name}")]
    return [reference, student]


def unknown(config: TrainConfig) -> list[str]:
    """What `work` had to guess or leave out."""
    found = []
    if config.planning.num_traces is None and not isinstance(config.data, PlantedDataConfig | SelfWrittenDataConfig):
        found.append(f"{UNKNOWN_TRACES} traces, as only reading the data would tell: planning.num_traces=N")
    if num_passes(config.scorer) is None:
        found.append(f"scorer={config.scorer.name} is not counted: how often it reads depends on the text")
    if num_problems(config.benchmark) is None:
        found.append(
            "answers are not counted, as only reading the benchmark would tell their number: benchmark.limit=N"
        )
    return found


def uses(config: TrainConfig) -> Iterator[Use]:
    """What would run a model without training it: scoring, and writing answers in this process."""
    trainer = config.trainer
    if num_passes(config.scorer) != 0:
        base = config.scoring_model
        rank = config.reference.tune.lora_rank if _adapted(config.reference.tune) else 0
        reading = Reading(value_bytes=value_bytes(base), tokens=trainer.tokens_per_batch, lora_rank=rank)
        yield Use(name=f"score with {base.name}", usage=scoring_usage(shape_of(base), reading))
    room_of_row = config.planning.prompt_tokens + config.benchmark.max_new_tokens
    rows = max(trainer.generation_tokens // room_of_row, 1)
    reading = Reading(value_bytes=value_bytes(config.model), tokens=rows * config.planning.prompt_tokens)
    usage = generation_usage(shape_of(config.model), reading, rows * room_of_row)
    yield Use(name=f"write with {config.model.name}, {rows} answers at once", usage=usage)


def work(config: TrainConfig) -> Iterator[Work]:
    """The parts of the run, as far as the configuration tells."""
    assumed, lengths = config.planning, lengths_of(config.planning)
    traces = num_traces(config.data, assumed)
    learnt = round(traces * (1 - config.data.validation_fraction))
    if isinstance(config.data, SelfWrittenDataConfig):
        written = lengths.thinking + lengths.response
        answers = traces * config.data.samples
        yield generation_work("write traces", shape_of(config.model), assumed, answers=answers, tokens=written)
    if _trains_reference(config):
        limit = config.reference.limit or learnt
        yield _tuning("reference model", _base(config), config.reference.tune, config, min(learnt, limit), 1.0)
    passes = num_passes(config.scorer)
    if passes:
        base = config.scoring_model
        tokens = lengths.whole()
        yield scoring_work(
            "scores", shape_of(base), assumed, texts=learnt, passes=passes, tokens=tokens, scored=lengths.thinking
        )
    if Baseline.original in config.evaluation.baselines:
        yield _tuning("student Original", config.model, config.sft.tune, config, learnt, 1.0)
    mixed = config.compression.mixed_ratios
    ratio = sum(mixed) / len(mixed) if mixed else config.ratio
    yield _tuning(f"student {config.scorer.name}", config.model, config.sft.tune, config, learnt, ratio)
    problems = num_problems(config.benchmark)
    if problems is not None:
        answers = problems * config.evaluation.samples * _num_systems(config)
        tokens = assumed.answer_tokens or config.benchmark.max_new_tokens
        yield generation_work("answers", shape_of(config.model), assumed, answers=answers, tokens=tokens)


def _num_systems(config: TrainConfig) -> int:
    """Systems that answer the benchmark: baselines, the student, and the student at other ratios."""
    asked = [b for b in config.evaluation.baselines if b is not Baseline.ratio_one or config.compression.mixed_ratios]
    return len(asked) + 1 + len(config.evaluation.ratios)


def _tuning(name: str, model: ModelConfig, tune: TuneConfig, config: TrainConfig, sequences: int, ratio: float) -> Work:
    tokens = min(lengths_of(config.planning).whole(ratio), longest_sequence(model, tune))
    setting = setting_of(model, tune, config.trainer)
    return training_work(
        f"train {name}",
        shape_of(model),
        setting,
        config.planning,
        sequences=sequences,
        epochs=tune.epochs,
        tokens=tokens,
    )


def _training(name: str, model: ModelConfig, tune: TuneConfig, config: TrainConfig) -> Training:
    return Training(
        name=f"{name} {model.name}",
        shape=shape_of(model),
        setting=setting_of(model, tune, config.trainer),
        longest=longest_sequence(model, tune),
    )


def _base(config: TrainConfig) -> ModelConfig:
    return config.reference.base or config.model


def _trains_reference(config: TrainConfig) -> bool:
    saved = isinstance(config.reference, SavedReferenceConfig)
    return config.scorer.needs_reference and config.reference.exists and not saved


def _adapted(tune: TuneConfig) -> bool:
    return tune.method is Method.lora
