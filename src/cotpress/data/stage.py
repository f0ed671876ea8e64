"""The data stage: training traces and benchmark problems as artifacts.

A new source is a module that yields records, a schema in `config.py`, and a `case` here; `registry` adds sources from
outside. The argument `group` is the configuration group of the settings, for messages; model and trainer are for
self-written data.
"""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cotpress.data import planted, published
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PlantedQuestionsConfig,
    PublishedBenchmarkConfig,
    SelfWrittenDataConfig,
)
from cotpress.data.losses import empty_fields, facts_of, tell
from cotpress.data.registry import SOURCES, Source
from cotpress.data.rows import PROBLEM_FIELDS, TRACE_FIELDS, RowReader, reasons, text_fields
from cotpress.data.self_written import SOLVED, solve
from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.config import ModelConfig
from cotpress.records import PROBLEMS_FILE, TRACES_FILE, Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, file_sha256
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
) -> Artifact:
    """Training and validation traces: an artifact with `traces.parquet` (`Trace` records).

    Raises:
        ConfigError: A setting does not fit the source, e.g. an unknown problem family, or the file is missing.
        DataError: The file has no usable row or (if strict) a bad one; or no trace is left for training.
        GenerationError: The server of self-written data fails.
    """
    if isinstance(config, SelfWrittenDataConfig) and type(config) not in SOURCES:
        source = _self_written(config, store, model, trainer or TrainerConfig(), group)
    else:
        source = _trace_source(config, group)
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
            writer.write(counted(split(lambda: iter_records(read, Trace), validation_fraction)))
        read.unlink()
        if not splits["train"]:
            raise DataError(
                f"{group}.validation_fraction: got {config.validation_fraction}, which leaves none of {splits.total()} "
                "traces for training. Fix: give more traces or a smaller fraction."
            )
        facts = {"train": splits["train"], "validation": splits["validation"], **source.facts}
        return Summary(num_rows=splits.total(), dropped=source.dropped, facts=facts | facts_of(source, empty))

    artifact = store.build("data", identified(identity, traces, *source.code), produce)
    tell(artifact, source, store, name=config.name, group=group, limit=config.limit, strict=config.strict)
    return artifact


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


def split(traces: Callable[[], Iterable[Trace]], validation_fraction: float) -> Iterator[Trace]:
    """Yield the traces in their order, `round(validation_fraction * n)` of them in the split `validation`.

    The split depends on the hashes of the ids alone, not on a seed or the order of the rows. Where the source has put
    traces into the split `validation` itself, its split stays. The traces are read twice, and of the first reading
    only the hashes stay in memory.
    """
    hashes: list[bytes] = []
    own = False
    for trace in traces():
        hashes.append(_hash(trace))
        own = own or trace.split != "train"
    num_validation = 0 if own else round(validation_fraction * len(hashes))
    last = sorted(hashes)[num_validation - 1] if num_validation else b""  # before every hash
    for trace in traces():
        yield dataclasses.replace(trace, split="validation") if _hash(trace) <= last else trace


def _hash(trace: Trace) -> bytes:
    return hashlib.sha256(trace.id.encode()).digest()


def is_text(config: DataConfig) -> bool:
    """True if the rows are texts to compress, not traces on which a model can be trained."""
    return isinstance(config, JsonlDataConfig) and config.field is not None


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
        case JsonlDataConfig(field="id"):
            raise ConfigError(f"{group}.field: got 'id', allowed: the name of any other column that holds text")
        case JsonlDataConfig(field=column):
            fields = TRACE_FIELDS if column is None else text_fields(column)
            reader = RowReader(Path(config.path), fields, strict=config.strict, key=f"{group}.path")
            identity = _file_identity(reader.path) | ({} if column is None else {"field": column})
            return _of_file(identity, reader, lambda: (_trace(row, column or "thinking") for row in reader))
    raise ConfigError(f"{group}: no source for {type(config).__name__}. Allowed: planted, jsonl, self_written")


def _trace(row: dict[str, Any], column: str) -> Trace:
    """A trace with the text of a column as its thinking; this column is not used for anything else."""
    thinking = row.pop(column)
    return Trace(**{"question": "", "response": "", "answer": "", **row}, thinking=thinking)


def _self_written(
    config: SelfWrittenDataConfig, store: ArtifactStore, model: ModelConfig | None, trainer: TrainerConfig, group: str
) -> Source[Trace]:
    if model is None:
        raise ConfigError(f"{group}=self_written: there is no model to answer the questions. Fix: model=NAME")
    questions = problems(config.questions, store, f"{group}.questions")
    solved = solve(config, questions, model, trainer, store)
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
            reader = RowReader(Path(config.path), fields, strict=config.strict, key=f"{group}.path")
            settings = {"unanswerable": unanswerable}
            return _of_file(
                {**_file_identity(reader.path), **settings},
                reader,
                lambda: (Problem(**{"answer": "", **row, **settings}) for row in reader),
            )
        case PublishedBenchmarkConfig():
            reader = published.reader(config, published.local_file(config, group), group)
            identity = {**_file_identity(reader.path), **published.reading(config)}
            return _of_file(identity, reader, lambda: published.problems(config, reader, group), published)
    raise ConfigError(f"{group}: no source for {type(config).__name__}. Allowed: planted, jsonl, published")


def _of_file(
    identity: Mapping[str, Any], reader: RowReader, records: Callable[[], Iterable[R]], code: Root = RowReader
) -> Source[R]:
    return Source(identity, [code], records, dropped=reader.dropped, emptied=reader.emptied, first=reader.first)


def _file_identity(path: Path) -> dict[str, Any]:
    """Content and format of a file; its path is not part of it."""
    return {"source": "file", "format": path.suffix.lower(), "sha256": file_sha256(path)}
