"""The data stage: training traces and benchmark problems as artifacts.

A new source is one module that yields records, one schema in `config.py`, and one `case` here.

Which traces are kept out of training.
"""

import dataclasses
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from cotpress.data.benchmarks import published
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PlantedQuestionsConfig,
    PublishedBenchmarkConfig,
)
from cotpress.data.planted import generator
from cotpress.data.registry import registered_source
from cotpress.data.rows import PROBLEM_FIELDS, TRACE_FIELDS, RowReader, text_fields
from cotpress.data.self_written.config import SelfWrittenDataConfig, check_self_written
from cotpress.data.self_written.stage import SOLVED, solve
from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.config import ModelConfig
from cotpress.records import Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, file_sha256
from cotpress.store.tables import read_records, write_records

log = logging.getLogger(__name__)


def split(traces: Sequence[Trace], validation_fraction: float) -> list[Trace]:
    """The traces in their order, `round(validation_fraction * n)` of them in the split `validation`.

    Which ones depends on the hash of their ids alone, so it is the same for every seed and order of rows.

    Args:
        traces: Traces with unique ids.
        validation_fraction: In [0, 1).
    """
    num_validation = round(validation_fraction * len(traces))
    by_hash = sorted((trace.id for trace in traces), key=lambda id_: hashlib.sha256(id_.encode()).digest())
    held = set(by_hash[:num_validation])
    return [dataclasses.replace(trace, split="validation" if trace.id in held else "train") for trace in traces]


TRACES = "traces.parquet"
PROBLEMS = "problems.parquet"
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Source(Generic[R]):
    """Where records come from.

    Attributes:
        identity: What determines the records.
        records: The usable records, lazily: nothing is read or generated if the artifact is there already.
        dropped: Bad rows by reason, complete once `records` is exhausted.
        emptied: Cells of optional columns that were read as empty because they hold no text, likewise, by column.
        facts: Further facts about the records, likewise.
    """

    identity: Mapping[str, Any]
    records: Iterable[R]
    dropped: Counter[str] = field(default_factory=Counter)
    emptied: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)


def traces(
    config: DataConfig,
    store: ArtifactStore,
    *,
    model: ModelConfig | None = None,
    trainer: TrainerConfig | None = None,
    group: str = "data",
) -> Artifact:
    """Training and validation traces: an artifact with `traces.parquet` (`Trace` records).

    Args:
        config: Which source, and its settings.
        store: Where the result goes.
        model: The run's model, for a source that has it write.
        trainer: Hardware, for such a source.
        group: Configuration group of these settings, for messages.

    Raises:
        ConfigError: A value is out of range.
        DataError: The file is missing, holds no usable row, or (if strict) a bad one; or nothing is left for training.
        GenerationError: A server that should write fails.
    """
    _check_limit(f"{group}.limit", config.limit)
    if isinstance(config, SelfWrittenDataConfig):
        source = _self_written(config, store, model, trainer or TrainerConfig(), group)
    else:
        source = _trace_source(config, group)
    # Texts are not learnt from, so none is held back.
    validation_fraction = 0.0 if is_text(config) else config.validation_fraction
    identity = {**source.identity, "limit": config.limit, "validation_fraction": validation_fraction}

    def produce(folder: Path) -> Summary:
        rows = split(list(itertools.islice(source.records, config.limit)), validation_fraction)
        num_train = sum(row.split == "train" for row in rows)
        if not num_train:
            raise DataError(
                f"{group}.validation_fraction: got {config.validation_fraction}, which leaves none of {len(rows)} "
                "traces for training. Fix: give more traces or a smaller fraction."
            )
        write_records(folder / TRACES, rows, Trace)
        facts: dict[str, Any] = {"train": num_train, "validation": len(rows) - num_train, **source.facts}
        if source.emptied:
            facts["read_as_empty"] = dict(source.emptied)
            log.warning("data: cells without text, read as empty, by column: %s", dict(source.emptied))
        return Summary(num_rows=len(rows), dropped=source.dropped, facts=facts)

    return store.build("data", identity, produce)


def is_text(config: DataConfig) -> bool:
    """True if the rows are texts to be compressed, not traces that a model can be trained on."""
    return isinstance(config, JsonlDataConfig) and config.field is not None


def problems(config: BenchmarkConfig, store: ArtifactStore, group: str = "benchmark") -> Artifact:
    """Problems to ask: an artifact with `problems.parquet` (`Problem` records).

    Args:
        config: Which source, and its settings.
        store: Where the result goes.
        group: Configuration group of these settings, for messages.

    Raises:
        ConfigError: A value is out of range.
        DataError: The file is missing or holds no usable row; or the hub cannot give it.
    """
    _check_limit(f"{group}.limit", config.limit)
    if "{question}" not in config.prompt:
        raise ConfigError(f"{group}.prompt: got '{config.prompt}', it must contain {{question}}")
    source = _problem_source(config, group)
    extractor = config.extractor.value

    def produce(folder: Path) -> Summary:
        rows = [
            dataclasses.replace(p, question=config.prompt.replace("{question}", p.question), extractor=extractor)
            for p in itertools.islice(source.records, config.limit)
        ]
        write_records(folder / PROBLEMS, rows, Problem)
        return Summary(num_rows=len(rows), dropped=source.dropped)

    asked = {"limit": config.limit, "prompt": config.prompt, "extractor": extractor}
    return store.build("benchmark", {**source.identity, **asked}, produce)


def _trace_source(config: DataConfig, group: str) -> _Source[Trace]:
    match config:
        case PlantedDataConfig():
            values: dict[str, Any] = {
                "num_traces": config.num_traces,
                "families": config.families,
                "difficulty": config.difficulty,
                "redundancy": config.redundancy,
                "seed": config.seed,
            }
            identity = {"source": "planted", "version": generator.VERSION, **values}
            return _Source(identity, _lazily(lambda: generator.traces(**values)))
        case JsonlDataConfig(field=str(column)):
            return _text_source(config, column, group)
        case JsonlDataConfig():
            reader = RowReader(Path(config.path), TRACE_FIELDS, strict=config.strict, key=f"{group}.path")
            # A strict run must not be answered by the artifact of one that dropped rows.
            identity = {**_file_identity(config.path), "strict": config.strict}
            return _Source(identity, map(_trace, reader), reader.dropped)
        case _:
            if (source := registered_source(config)) is not None:
                return _Source(source.identity(config), _lazily(lambda: source.records(config)))
            raise ConfigError(f"{group}: no source for {type(config).__name__}. Allowed: planted, jsonl, self_written")


def _self_written(
    config: SelfWrittenDataConfig, store: ArtifactStore, model: ModelConfig | None, trainer: TrainerConfig, group: str
) -> _Source[Trace]:
    """What the model wrote and solved."""
    if model is None:
        raise ConfigError(f"{group}=self_written: there is no model that could write. Fix: model=NAME")
    check_self_written(config, group)
    questions = problems(config.questions, store, f"{group}.questions")
    solved = solve(config, questions, model=model, trainer=trainer, store=store)
    identity = {"source": "self_written", "sha256": solved.manifest["files"][SOLVED]}
    records = _lazily(lambda: read_records(solved.file(SOLVED), Trace))
    return _Source(identity, records, Counter(solved.manifest["dropped"]), facts={**solved.facts, "from": solved.key})


def _text_source(config: JsonlDataConfig, column: str, group: str) -> _Source[Trace]:
    if column == "id":
        raise ConfigError(f"{group}.field: got 'id', allowed: the name of any other column that holds text")
    reader = RowReader(Path(config.path), text_fields(column), strict=config.strict, key=f"{group}.path")

    def text(row: Mapping[str, str]) -> Trace:
        given = {name: value for name, value in row.items() if name != column}
        return Trace(
            id=row["id"],
            question=given.get("question", ""),
            thinking=row[column],
            response=given.get("response", ""),
            answer=given.get("answer", ""),
        )

    identity = {**_file_identity(config.path), "strict": config.strict, "field": column}
    return _Source(identity, map(text, reader), reader.dropped, reader.emptied)


def _problem_source(config: BenchmarkConfig, group: str) -> _Source[Problem]:
    match config:
        case PlantedBenchmarkConfig():
            values: dict[str, Any] = {
                "num_problems": config.num_problems,
                "families": config.families,
                "difficulty": config.difficulty,
                "seed": config.seed,
            }
            identity = {"source": "planted", "version": generator.VERSION, **values}
            return _Source(identity, _lazily(lambda: generator.problems(**values)))
        case PlantedQuestionsConfig():
            values = {
                "num_problems": config.num_problems,
                "families": config.families,
                "difficulty": config.difficulty,
                "seed": config.seed,
            }
            half = generator.Half.training
            identity = {"source": "planted", "version": generator.VERSION, "half": half, **values}
            return _Source(identity, _lazily(lambda: generator.problems(**values, half=half, group=group)))
        case JsonlBenchmarkConfig():
            fields = [f for f in PROBLEM_FIELDS if f.name != "answer" or not config.unanswerable]
            reader = RowReader(Path(config.path), fields, strict=False, key=f"{group}.path")
            identity = {**_file_identity(config.path), "unanswerable": config.unanswerable}
            return _Source(identity, map(_problem, reader), reader.dropped)
        case PublishedBenchmarkConfig():
            file = published.local_file(config, group)
            identity = {**_file_identity(str(file)), **published.reading(config)}
            return _Source(identity, _lazily(lambda: published.problems(config, file, group)))
        case _:
            if (source := registered_source(config)) is not None:
                return _Source(source.identity(config), _lazily(lambda: source.records(config)))
            raise ConfigError(f"{group}: no source for {type(config).__name__}. Allowed: planted, jsonl, published")


def _trace(row: Mapping[str, str]) -> Trace:
    return Trace(
        id=row["id"],
        question=row["question"],
        thinking=row["thinking"],
        response=row["response"],
        answer=row["answer"],
    )


def _problem(row: Mapping[str, str]) -> Problem:
    unanswerable = "answer" not in row
    answer = "" if unanswerable else row["answer"]
    return Problem(id=row["id"], question=row["question"], answer=answer, unanswerable=unanswerable)


def _lazily(make: Callable[[], Iterable[R]]) -> Iterator[R]:
    yield from make()


def _file_identity(path: str) -> dict[str, str]:
    """What a file holds and how it is read, not where it lies."""
    return {"source": "file", "format": Path(path).suffix.lower(), "sha256": file_sha256(Path(path))}


def _check_limit(key: str, limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"{key}: got {limit}, allowed: a whole number of at least 1, or null for all rows")
