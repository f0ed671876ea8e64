"""`python train.py ... plan=true`: print the memory and time that the run would take, and end.

One table of memory for each model that would be trained, one for scoring and writing, and one of GPU hours. No weights
are loaded.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from cotpress.compression.config import Mode
from cotpress.config import TrainConfig
from cotpress.data.config import PlantedDataConfig, SelfWrittenDataConfig
from cotpress.errors import ModelError
from cotpress.evaluation.config import Baseline
from cotpress.modeling.config import ORIGINAL_WEIGHTS, ModelConfig
from cotpress.planning import workload
from cotpress.planning.measure import Usage, Writing, computed_dtype, reading_pass, writing_pass
from cotpress.planning.tables import show_hours, show_training, show_uses
from cotpress.planning.training import Training
from cotpress.planning.workload import Work
from cotpress.scoring.table import model_to_read, num_passes
from cotpress.tasks.students import needs_original
from cotpress.tasks.systems import compressed_system, random_beside
from cotpress.training.config import Overlong, TuneConfig

log = logging.getLogger(__name__)


def plan(config: TrainConfig, folder: Path) -> tuple[None, None]:
    """Write the tables to standard output; there is no run directory."""
    reference, student = trainings(config)
    for training in dict.fromkeys(t for t in (reference, student) if t is not None):
        log.info("plan: measuring the training of the %s; a large model takes a minute", training.name)
        show_training(training, config.planning)
    unknown, writing = not_counted(config), None
    log.info("plan: measuring scoring and writing with %s", config.model.name)
    try:
        writing = writing_pass(config.model, config.planning.prompt_tokens, config.benchmark.max_new_tokens)
    except ModelError as error:
        unknown.append(f"writing is not counted: {error}")
    if writing is not None and workload.rows_that_fit(writing, config.planning) == 0:
        unknown.append("writing does not fit a device: its hours are those of one answer at a time")
    show_uses(list(uses(config, writing)), config.planning)
    log.info("plan: adding up the hours")
    show_hours(list(work(config, reference, student, writing)), config.planning, unknown)
    return None, None


def trainings(config: TrainConfig) -> tuple[Training | None, Training]:
    """Trainings of the reference model (None if none is trained) and the student; one object if they are alike."""

    def training(role: str, model: ModelConfig, tune: TuneConfig) -> Training:
        return Training(f"{role} {model.name}", model, tune, config.trainer)

    base, tune = config.reference.base or config.model, config.reference.tune
    if not config.trains_reference:
        return None, training("student", config.model, config.sft.tune)
    if (base, tune) == (config.model, config.sft.tune):
        both = training("reference model and student", base, tune)
        return both, both
    return training("reference model", base, tune), training("student", config.model, config.sft.tune)


def not_counted(config: TrainConfig) -> list[str]:
    """Assumptions about the amount of work, and parts that `work` leaves out."""
    lines = []
    if config.planning.num_traces is None and not isinstance(config.data, PlantedDataConfig | SelfWrittenDataConfig):
        lines.append(f"{workload.UNKNOWN_TRACES} traces, as only reading the data would tell: planning.num_traces=N")
    longest = min(config.sft.tune.max_tokens, config.model.context_tokens)
    if _trace_tokens(config) > longest and config.sft.overlong is not Overlong.cut:
        lines.append(
            f"a training sequence of {_trace_tokens(config)} tokens is longer than {longest}: all traces count as cut "
            f"there, while sft.overlong={config.sft.overlong.value} leaves long ones out: sft.tune.max_tokens=N"
        )
    if config.uses_scorer and num_passes(config.scorer) is None:
        lines.append(f"scorer={config.scorer.name} is not counted: its number of passes depends on the text")
    if config.compression.has_own_length:
        lines.append("the student counts with whole traces, as only reading the data would tell their own length")
    if workload.num_problems(config.benchmark) is None:
        lines.append(
            "answers are not counted, as only reading the benchmark would tell their number: benchmark.limit=N"
        )
    return lines


def uses(config: TrainConfig, writing: Writing | None) -> Iterator[tuple[str, Usage]]:
    """Name and memory of each use of a model without training: scoring, and writing answers in this process."""
    if config.uses_scorer and num_passes(config.scorer) != 0:
        length, model = _trace_tokens(config), model_to_read(config.scorer, config.scoring_model)
        lengths = [length] * max(config.trainer.tokens_per_batch // length, 1)
        usage, _ = reading_pass(model, lengths)
        yield f"score with {model.name} in {_format(model)}", usage
    if writing is not None:
        rows = _rows(config)
        usage = Usage(weights=writing.weights, activations=rows * writing.row)
        yield f"write with {config.model.name}, {rows} answers at once", usage


def work(config: TrainConfig, reference: Training | None, student: Training, writing: Writing | None) -> Iterator[Work]:
    """The parts of the run, as far as the configuration tells."""
    assumed, rows = config.planning, _rows(config)
    traces = workload.num_traces(config.data, assumed)
    train_traces = round(traces * (1 - config.data.validation_fraction))

    def train(name: str, training: Training, sequences: int, ratio: float) -> Work:
        tokens, runs = min(_trace_tokens(config, ratio), training.longest), sequences * training.tune.epochs
        return workload.arithmetic_work(
            f"train {name}",
            assumed,
            tokens=runs * tokens,
            flops=runs * training.flops(tokens),
            utilisation=assumed.training_utilisation,
            float32=_format(training.model) == "float32",
        )

    def write(name: str, samples: int) -> Iterator[Work]:
        if writing is not None:
            tokens, answers = assumed.thinking_tokens + assumed.response_tokens, traces * samples
            yield workload.writing_work(name, writing, assumed, answers=answers, tokens=tokens, rows=rows)

    data = config.data
    if isinstance(data, SelfWrittenDataConfig):
        if data.writer == ORIGINAL_WEIGHTS and data.taught is not None:
            taught = workload.num_traces(data.taught, assumed)
            name = "student Original, the writer" if config.starts_from_writer else "writer"
            yield train(name, student, round(taught * (1 - data.taught.validation_fraction)), 1.0)
        yield from write("write traces", data.samples)
    if reference is not None:
        yield train("reference model", reference, min(train_traces, config.reference.limit or train_traces), 1.0)
    scoring_model = model_to_read(config.scorer, config.scoring_model)
    if config.uses_scorer and (passes := num_passes(config.scorer, config.scoring_model)):
        tokens, readings = _trace_tokens(config), train_traces * passes
        yield workload.arithmetic_work(
            "scores",
            assumed,
            tokens=readings * tokens,
            flops=readings * reading_pass(scoring_model, [tokens])[1],
            utilisation=assumed.scoring_utilisation,
            float32=_format(scoring_model) == "float32",
        )
    if needs_original(config) and not config.starts_from_writer:
        yield train("student Original", student, train_traces, 1.0)
    if Baseline.shortest in config.evaluation.baselines:
        yield from write("write answers of Shortest", config.shortest.samples)
        yield train("student Shortest", student, train_traces, 1.0)
    mixed = config.compression.mixed_ratios
    ratio = sum(mixed) / len(mixed) if mixed else config.ratio
    if config.compression.mode is not Mode.delete:
        ratio = 1.0  # whole, or of a length that only reading the data would tell
    control = random_beside(compressed_system(config)) if Baseline.random in config.evaluation.baselines else None
    if control is not None:
        yield train(f"student {control.name}", student, train_traces, ratio)
    yield train(f"student {config.selector}", student, train_traces, ratio)
    problems = workload.num_problems(config.benchmark)
    if problems is not None and writing is not None:
        left_out = {*([] if mixed else [Baseline.ratio_one]), *([] if control else [Baseline.random])}
        baselines = [b for b in config.evaluation.baselines if b not in left_out]
        num_systems = len(baselines) + 1 + len(config.evaluation.ratios)  # with the student, also at other ratios
        answers = problems * config.evaluation.samples * num_systems
        tokens = assumed.answer_tokens or config.benchmark.max_new_tokens
        yield workload.writing_work("answers", writing, assumed, answers=answers, tokens=tokens, rows=rows)


def _format(model: ModelConfig) -> str:
    return str(computed_dtype(model)).removeprefix("torch.")


def _trace_tokens(config: TrainConfig, ratio: float = 1.0) -> int:
    assumed = config.planning
    return assumed.prompt_tokens + round(assumed.thinking_tokens * ratio) + assumed.response_tokens


def _rows(config: TrainConfig) -> int:
    """Answers that are written at once."""
    room = config.planning.prompt_tokens + config.benchmark.max_new_tokens
    return max(config.trainer.generation_tokens // room, 1)
