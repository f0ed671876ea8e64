"""The data stage: training traces and benchmark problems as artifacts.

A new source is a module that yields records, a schema in `config.py`, and a `case` here; `registry` adds sources from
outside. The argument `group` is the configuration group of the settings, for messages; model and trainer are for
self-written data.
"""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cotpress.data import conversion, hub, planted, published
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    Duplicates,
    FileFormat,
    HubDataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PlantedQuestionsConfig,
    PublishedBenchmarkConfig,
    RowsDataConfig,
    SelfWrittenDataConfig,
)
from cotpress.data.conversion import Readings
from cotpress.data.files import Files, find_files
from cotpress.data.formats import FIELDS, NUM_HEAD
from cotpress.data.losses import announce, empty_fields, facts_of, tell
from cotpress.data.recognition import fitting, recognised, told, warning
from cotpress.data.registry import SOURCES, Source, checked
from cotpress.data.rows import PROBLEM_FIELDS, TRACE_FIELDS, Field, RowReader, reasons, text_fields
from cotpress.data.self_written import SOLVED, solve
from cotpress.data.thinking import untagged, without_tags
from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError, DataError
from cotpress.invocation import program
from cotpress.modeling.config import BASE_WEIGHTS, ORIGINAL_WEIGHTS, ModelConfig
from cotpress.modeling.sources import adapter_directory
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import PROBLEMS_FILE, TRACES_FILE, Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import Root, identified
from cotpress.store.tables import RecordWriter, iter_records, read_records, write_records

R = TypeVar("R")


def traces(
    config: DataConfig,
    store: ArtifactStore,
    *,
    model: ModelConfig | None = None,
    trainer: TrainerConfig | None = None,
    group: str = "data",
    writer: TrainedWeights | None = None,
    questions: Artifact | None = None,
) -> Artifact:
    """Training and validation traces: an artifact with `traces.parquet` (`Trace` records).

    `writer` are the weights that write self-written data, `questions` the problems that they answer; None for those of
    its settings.

    Raises:
        ConfigError: A setting does not fit the source, e.g. an unknown problem family, or the file is missing.
        DataError: The file has no usable row or (if strict) a bad one; or no trace is left for training.
        GenerationError: The server of self-written data fails.
    """
    if isinstance(config, SelfWrittenDataConfig) and type(config) not in SOURCES:
        source = _self_written(config, store, model, trainer or TrainerConfig(), group, writer, questions)
    else:
        source = _trace_source(config, group)
    source = checked(source, untagged, strict=config.strict, group=group)
    # No model is trained on plain texts, so none is held out and none needs a response.
    validation_fraction = 0.0 if is_text(config) else config.validation_fraction
    identity = {**source.identity, "limit": config.limit, "validation_fraction": validation_fraction}

    def produce(folder: Path) -> Summary:
        splits, empty = Counter[str](), Counter[str]()

        def counted(rows: Iterable[Trace]) -> Iterator[Trace]:
            for row in rows:
                splits[row.split] += 1
                empty.update({} if is_text(config) else empty_fields([row]))
                yield row

        read = folder / "read.parquet"
        with RecordWriter(read, Trace) as writer:
            writer.write(itertools.islice(source.open(), config.limit))
        with RecordWriter(folder / TRACES_FILE, Trace) as writer:
            writer.write(
                counted(split(lambda: iter_records(read, Trace), validation_fraction, by_question=source.by_question))
            )
        read.unlink()
        if not splits:
            raise DataError(f"{group}={config.name}: no usable row ({reasons(source.dropped, source.first)})")
        if not splits["train"]:
            raise DataError(
                f"{group}.validation_fraction: got {config.validation_fraction}, which leaves none of {splits.total()} "
                "traces for training. Fix: give more traces or a smaller fraction."
            )
        facts = {"train": splits["train"], "validation": splits["validation"], **source.facts}
        return Summary(num_rows=splits.total(), dropped=source.dropped, facts=facts | facts_of(source, empty))

    announce(source, store, name=config.name, group=group)
    artifact = store.build("data", identified(identity, traces, *source.code), produce)
    tell(
        artifact, source, store, name=config.name, group=group, limit=config.limit, strict=config.strict,
        names_columns=isinstance(config, RowsDataConfig),
    )  # fmt: skip
    return artifact


def given_writer(config: SelfWrittenDataConfig, group: str = "data") -> TrainedWeights | None:
    """The weights that the settings of self-written data name; None for the model's own and those of a student.

    Raises:
        ConfigError: A folder does not exist.
        ModelError: It holds no weights, or the hub does not know the adapter.
    """
    if config.writer in (BASE_WEIGHTS, ORIGINAL_WEIGHTS):
        return None
    if Path(config.writer).expanduser().is_dir():
        return TrainedWeights.saved(Path(config.writer), f"{group}.writer")
    return TrainedWeights(path=str(adapter_directory(config.writer, key=f"{group}.writer")), is_adapter=True)


def find_traces(config: DataConfig, group: str = "data") -> None:
    """Check that the file of a source is there, of self-written data that of its questions; arguments as `traces`.

    Raises:
        ConfigError: It does not exist, or a setting does not fit the source.
        DataError: It cannot be read or fetched.
    """
    if isinstance(config, SelfWrittenDataConfig) and type(config) not in SOURCES:
        find_problems(config.questions, f"{group}.questions")
    else:
        _trace_source(config, group)


def find_problems(config: BenchmarkConfig, group: str = "benchmark") -> None:
    """As `find_traces`, with the file of a benchmark."""
    _problem_source(config, group)


def split(
    traces: Callable[[], Iterable[Trace]], validation_fraction: float, *, by_question: bool = False
) -> Iterator[Trace]:
    """Yield the traces in their order, `round(validation_fraction * n)` of them in the split `validation`.

    The split depends on the hashes of the ids alone, not on a seed or the order of the rows. Where the source has put
    traces into the split `validation` itself, its split stays. With `by_question`, questions are drawn by their hashes
    instead, so that all traces of a question are in one split; that many of `n` different questions are held out. The
    traces are read twice, and of the first reading only the hashes stay in memory.
    """

    def hashed(trace: Trace) -> bytes:
        return hashlib.sha256((trace.question if by_question else trace.id).encode()).digest()

    hashes: set[bytes] = set()
    own = False
    for trace in traces():
        hashes.add(hashed(trace))
        own = own or trace.split != "train"
    num_validation = 0 if own else round(validation_fraction * len(hashes))
    last = sorted(hashes)[num_validation - 1] if num_validation else b""  # before every hash
    for trace in traces():
        yield dataclasses.replace(trace, split="validation") if hashed(trace) <= last else trace


def is_text(config: DataConfig) -> bool:
    """True if the rows are texts to compress, not traces on which a model can be trained."""
    return isinstance(config, RowsDataConfig) and config.field is not None


def problems(config: BenchmarkConfig, store: ArtifactStore, group: str = "benchmark") -> Artifact:
    """Problems to answer: an artifact with `problems.parquet` (`Problem` records).

    Raises:
        ConfigError: A setting does not fit the source, e.g. an unknown problem family, or the file is missing.
        DataError: The file cannot be fetched, or has no usable row or (if strict) a bad one.
    """
    source = _problem_source(config, group)
    settings = {"limit": config.limit, "prompt": config.prompt, "extractor": config.extractor.value}

    def produce(folder: Path) -> Summary:
        rows = [
            dataclasses.replace(
                p, question=config.prompt.replace("{question}", p.question), extractor=config.extractor.value
            )
            for p in itertools.islice(source.open(), config.limit)
        ]
        if not rows:
            raise DataError(f"{group}={config.name}: no usable row ({reasons(source.dropped, source.first)})")
        write_records(folder / PROBLEMS_FILE, rows, Problem)
        return Summary(num_rows=len(rows), dropped=source.dropped, facts=facts_of(source))

    identity = identified({**source.identity, **settings}, problems, *source.code)
    announce(source, store, name=config.name, group=group)
    artifact = store.build("benchmark", identity, produce)
    tell(
        artifact, source, store, name=config.name, group=group, limit=config.limit, strict=config.strict,
        never_shrinks=True,
    )  # fmt: skip
    return artifact


def _trace_source(config: DataConfig, group: str) -> Source[Trace]:
    if type(config) in SOURCES:  # first: its settings may derive from those of a built-in source
        return SOURCES[type(config)](config)
    match config:
        case PlantedDataConfig():
            values = planted.settings_of(config)
            identity = {"source": "planted", **values}
            return Source(identity, [planted.traces], lambda: planted.traces(**values, group=group))
        case RowsDataConfig(field="id"):
            raise ConfigError(f"{group}.field: got 'id', allowed: the name of any other column that holds text")
        case JsonlDataConfig():
            return _of_rows(config, find_files(config.path, f"{group}.path"), group)
        case HubDataConfig():
            return _of_rows(config, hub.find(config, group), group, hub)
    raise ConfigError(f"{group}: no source for {type(config).__name__}. Allowed: planted, jsonl, hub, self_written")


def _of_rows(config: RowsDataConfig, rows: Files | hub.HubRows, group: str, *code: Root) -> Source[Trace]:
    """Traces from rows of any known format, or with a text in any column."""

    def reader(fields: Sequence[Field], **options: Any) -> RowReader:
        return RowReader(
            rows, fields, strict=config.strict, key=f"{group}.path", duplicates=config.duplicates, **options
        )

    identity = dict(rows.identity)
    if config.duplicates is not Duplicates.number:
        identity["duplicates"] = config.duplicates.value
    if (column := config.field) is not None:
        texts = reader(text_fields(column))
        return _of_reader(
            {**identity, "field": column}, texts, lambda: (_trace(row, column) for row in texts), *code
        )  # fmt: skip
    given = {f.name: place for f in dataclasses.fields(config.columns) if (place := getattr(config.columns, f.name))}
    recognise = partial(
        recognised, given=given, generations=config.generations, extractor=config.extractor, group=group
    )
    heads = {} if given or config.format is not FileFormat.auto else _heads(rows)
    if len(heads) > 1:
        readings = Readings([recognise(head, place, format_=name) for name, (place, head) in heads.items()])
        made = reader(readings.each[0].fields, convert=readings.rows)
        source = _of_reader(
            {**identity, **readings.identity}, made, lambda: (_trace(row, "thinking") for row in made),
            *code, conversion, *readings.code,
        )  # fmt: skip
        lines = [f"{place}: {told(reading)}" for reading, (place, _) in zip(readings.each, heads.values(), strict=True)]
        facts: dict[str, Any] = {
            "read_as": [reading.name.value for reading in readings.each],
            "columns_used": readings.used,
        }
        warnings = dict.fromkeys(warning(reading, group) for reading in readings.each)
        return dataclasses.replace(
            source, by_question=True, told="; ".join(lines), warning=next(filter(None, warnings), ""), facts=facts
        )
    reading = recognise(reader(TRACE_FIELDS).head(NUM_HEAD), str(rows), format_=config.format)
    if reading.is_plain:
        plain = reader(reading.fields, convert=without_tags, columns=FIELDS)
        return _of_reader(identity, plain, lambda: (_trace(row, "thinking") for row in plain), *code)
    made = reader(reading.fields, convert=reading.rows)
    source = _of_reader(
        {**identity, **reading.identity}, made, lambda: (_trace(row, "thinking") for row in made),
        *code, conversion, *reading.code,
    )  # fmt: skip
    facts = {"read_as": reading.name.value, "columns_used": list(reading.used)}
    return dataclasses.replace(
        source, by_question=True, told=told(reading, rows.layout), warning=warning(reading, group), facts=facts
    )


def _heads(rows: Files | hub.HubRows) -> dict[FileFormat, tuple[str, list[Mapping[str, Any]]]]:
    """The formats of several files, each with a name of its files for messages and the first rows of one of them.

    A file without rows of a known format is left out.
    """
    heads: dict[FileFormat, tuple[str, list[Mapping[str, Any]]]] = {}
    if not isinstance(rows, Files) or len(rows.files) < 2:
        return heads
    for file in rows.files:
        head = RowReader(dataclasses.replace(rows, files=[file]), TRACE_FIELDS, strict=False, key="").head(NUM_HEAD)
        if names := fitting(head):
            place, first = heads.get(names[0], ("", head))
            heads[names[0]] = (f"{place}, {file.name}" if place.count(",") < 2 and place else place or file.name, first)
    return heads


def _trace(row: dict[str, Any], column: str) -> Trace:
    """A trace with the text of a column as its thinking; this column is not used for anything else."""
    thinking = row.pop(column)
    return Trace(**{"question": "", "response": "", "answer": "", **row}, thinking=thinking)


def _self_written(
    config: SelfWrittenDataConfig,
    store: ArtifactStore,
    model: ModelConfig | None,
    trainer: TrainerConfig,
    group: str,
    writer: TrainedWeights | None,
    questions: Artifact | None,
) -> Source[Trace]:
    if model is None:
        raise ConfigError(f"{group}=self_written: there is no model to answer the questions. Fix: model=NAME")
    if writer is None and config.writer == ORIGINAL_WEIGHTS:
        raise ConfigError(
            f"{group}.writer: got original, a student that {program('train')} trains and this command does not. Fix: "
            f"{group}.writer=DIR with the folder of a student"
        )
    asked = questions or problems(config.questions, store, f"{group}.questions")
    solved = solve(config, asked, model, trainer, store, writer or given_writer(config, group))
    return Source(
        {"source": "self_written", "sha256": solved.manifest["files"][SOLVED]},
        [],
        lambda: read_records(solved.file(SOLVED), Trace),
        Counter(solved.manifest["dropped"]),
        facts={**solved.facts, "from": solved.key},
    )


def _problem_source(config: BenchmarkConfig, group: str) -> Source[Problem]:
    if type(config) in SOURCES:  # first: its settings may derive from those of a built-in source
        return SOURCES[type(config)](config)
    match config:
        case PlantedBenchmarkConfig():
            values = planted.settings_of(config)
            if isinstance(config, PlantedQuestionsConfig):
                values["half"] = planted.Half.training
            identity = {"source": "planted", **values}
            return Source(identity, [planted.problems], lambda: planted.problems(**values, group=group))
        case JsonlBenchmarkConfig(unanswerable=unanswerable):
            fields = [f for f in PROBLEM_FIELDS if f.name != "answer" or not unanswerable]
            files = find_files(config.path, f"{group}.path")
            reader = RowReader(files, fields, strict=config.strict, key=f"{group}.path")
            settings = {"unanswerable": unanswerable}
            return _of_reader(
                {**files.identity, **settings},
                reader,
                lambda: (Problem(**{"answer": "", **row, **settings}) for row in reader),
            )
        case PublishedBenchmarkConfig():
            files = published.local_files(config, group)
            reader = published.reader(config, files, group)
            identity = {**files.identity, **published.reading(config)}
            return _of_reader(identity, reader, lambda: published.problems(config, reader, group), published)
    raise ConfigError(f"{group}: no source for {type(config).__name__}. Allowed: planted, jsonl, published")


def _of_reader(
    identity: Mapping[str, Any], reader: RowReader, records: Callable[[], Iterable[R]], *code: Root
) -> Source[R]:
    return Source(
        identity, [RowReader, *code], records,
        dropped=reader.dropped, emptied=reader.emptied, numbered=reader.numbered, tally=reader.tally,
        first=reader.first, note=reader.source.note, drop=reader.drop, told=reader.told,
    )  # fmt: skip
