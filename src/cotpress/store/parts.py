"""Rows of an artifact that are computed and written in parts, so that memory does not grow with the number of traces.

A chunk is a run of consecutive training traces, cut by their length alone: every process plans the same chunks for the
same traces, so a chunk's rows are the same bytes whichever process, device or node computes them. The rows of a chunk
are written as a parquet part as soon as they are finished. A job that was killed, or shares its work with other
machines, computes the chunks whose part is missing on disk. At the end the parts are verified (every trace once, in a
row or counted as dropped) and merged in the order of the traces.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cotpress.errors import ArtifactError, UnreadableError
from cotpress.records import ReadTrace, Trace
from cotpress.store.artifacts import Artifact, plain, replaced
from cotpress.store.paths import is_unreadable, unreadable
from cotpress.store.tables import RecordWriter, from_table, iter_records, iter_tables, schema, to_table

log = logging.getLogger(__name__)

R = TypeVar("R")

TRAIN = "train"
CHUNK_CHARACTERS = 200_000
"""Thinking characters per chunk; an interrupted job computes at most one again (a minute or two on a CPU)."""
_ABOUT = b"cotpress"
"""Key of a part's parquet metadata with its chunk and tally."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Training traces whose rows are computed and written together; numbers and indices count from 0."""

    number: int
    first: int
    """Index of its first trace among the training traces."""
    num_traces: int
    num_characters: int
    """Length of the thinking of its traces."""


@dataclass(slots=True)
class Tally:
    """Counts over some traces: all, tokens of their rows, traces read in windows, traces without a row by reason."""

    num_traces: int = 0
    num_tokens: int = 0
    num_in_windows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def count(self, result: Any, *sources: Any) -> None:
        """Count a trace: its row, with the rows that it is computed from, or the reason why it has none."""
        self.num_traces += 1
        if isinstance(result, str):
            self.dropped[result] += 1
        else:
            self.num_tokens += len(result.token_ids)
            self.num_in_windows += any(isinstance(row, ReadTrace) and row.in_windows for row in (result, *sources))

    def add(self, other: "Tally") -> None:
        """Count the traces of another tally as well."""
        self.num_traces += other.num_traces
        self.num_tokens += other.num_tokens
        self.num_in_windows += other.num_in_windows
        self.dropped += other.dropped


def plan_chunks(traces: Path) -> list[Chunk]:
    """The chunks of the training traces of a data artifact, in order; the same in every call."""
    tables = _training(traces, ["thinking", "split"])
    lengths = (n for table in tables for n in pc.utf8_length(table.column("thinking")).to_pylist())
    chunks: list[Chunk] = []
    first = 0
    for count, size in chunk_sizes(lengths):
        chunks.append(Chunk(len(chunks), first, count, size))
        first += count
    return chunks


def chunk_sizes(lengths: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of traces and of thinking characters of each chunk, for the lengths of all thinking texts."""
    count = size = 0
    for length in lengths:
        count, size = count + 1, size + length
        if size >= CHUNK_CHARACTERS:
            yield count, size
            count = size = 0
    if count:
        yield count, size


def read_chunks(traces: Path, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, list[Trace]]]:
    """Yield the given chunks, which are in order, with their traces."""
    return _by_chunk((trace for table in _training(traces) for trace in from_table(table, Trace)), chunks)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one artifact in the making: a file with traces, a folder of parts, the class of their rows."""

    traces: Path
    folder: Path
    record: type

    def path(self, chunk: Chunk) -> Path:
        """File of a chunk's part."""
        return self.folder / f"part-{chunk.number:05d}.parquet"

    def write(self, chunk: Chunk, rows: Sequence[Any], tally: Tally) -> None:
        """Write the part of a chunk; it appears whole or not at all."""
        about = json.dumps({"chunk": plain(chunk), "tally": plain(tally)}, sort_keys=True)
        table = to_table(rows, self.record).replace_schema_metadata({_ABOUT: about})
        with replaced(self.path(chunk)) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """The chunks that have no part yet, or a damaged one."""
        missing = []
        for chunk, ids in _by_chunk(_ids(self.traces), chunks):
            if self.path(chunk).exists():
                try:
                    self._read(chunk, ids)
                    continue
                except UnreadableError:
                    raise
                except ArtifactError as error:
                    log.warning("%s; it is computed again", error)
            missing.append(chunk)
        return missing

    def merge(
        self, chunks: Iterable[Chunk], target: Path, see: Callable[[pa.Table], object] = lambda table: None
    ) -> Tally:
        """Write all parts as one file, in the order of the traces; returns the counts of all of them.

        Args:
            chunks: All chunks, in order.
            target: The file.
            see: Called with the rows of each part, in order.

        Raises:
            ArtifactError: A part is missing, damaged, or does not hold every trace of its chunk exactly once.
        """
        whole = Tally()
        with RecordWriter(target, self.record) as writer:
            for chunk, ids in _by_chunk(_ids(self.traces), chunks):
                table, tally = self._read(chunk, ids)
                whole.add(tally)
                writer.write_table(table)
                see(table)
        return whole

    def rows(self, chunks: Iterable[Chunk]) -> Iterator[list[Any]]:
        """Yield the rows of chunks as `ChunkRows`; exceptions as `merge`."""
        for chunk, ids in _by_chunk(_ids(self.traces), chunks):
            read: list[Any] = from_table(self._read(chunk, ids)[0], self.record)
            rows = {row.id: row for row in read}
            yield [rows.get(id_) for id_ in ids]

    def _read(self, chunk: Chunk, ids: list[str]) -> tuple[pa.Table, Tally]:
        """Read and verify the part of a chunk of the traces `ids`."""
        path = self.path(chunk)
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            about = json.loads(table.schema.metadata[_ABOUT])
            tally = Tally(**{**about["tally"], "dropped": Counter(about["tally"]["dropped"])})
            same = about["chunk"] == plain(chunk) and table.schema.equals(schema(self.record))
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            if is_unreadable(error):
                raise unreadable(path, error) from error
            raise ArtifactError(f"part '{path}' cannot be read: {error}") from error
        expected, present = iter(ids), table.column("id").to_pylist()
        complete = len(present) + tally.dropped.total() == tally.num_traces == len(ids)
        if not (same and complete and all(id_ in expected for id_ in present)):  # each after the one before it
            raise ArtifactError(f"part '{path}' does not hold each of its {len(ids)} traces exactly once")
        return table, tally


ChunkRows = Callable[[Iterable[Chunk]], Iterator[list[Any]]]
"""Reads the rows of chunks, which are in order: of each chunk a row per trace, or None for a trace without one."""


class RowSource(Protocol):
    """Rows by trace that are finished, or of which the chunks of a shard are."""

    @property
    def key(self) -> str:
        """Key of their artifact."""

    def rows(self, reader: str) -> AbstractContextManager[ChunkRows]:
        """Keep the rows where they are while `reader` reads them; a reader has a name of its own."""


@dataclass(frozen=True, slots=True)
class FinishedRows:
    """Rows of an artifact, of the training traces in a file."""

    artifact: Artifact
    file: str
    record: type
    traces: Path

    @property
    def key(self) -> str:
        """See `RowSource`."""
        return self.artifact.key

    @contextmanager
    def rows(self, reader: str) -> Iterator[ChunkRows]:
        """See `RowSource`; exceptions as `rows_of`."""
        yield partial(_rows_by_chunk, self.artifact.file(self.file), self.record, self.traces)


def _rows_by_chunk(path: Path, record: type, traces: Path, chunks: Iterable[Chunk]) -> Iterator[list[Any]]:
    rows = rows_of(path, record, traces)
    yield from (of_chunk for _, of_chunk in _by_chunk(rows, chunks))
    for _ in rows:  # to the end, where the order of all rows is known
        pass


def rows_of(path: Path, record: type[R], traces: Path) -> Iterator[R | None]:
    """Yield the row of each training trace, or None if it has none; the file's rows are in the order of the traces.

    Raises:
        ArtifactError: The file has a row of no training trace, or in another order.
        UnreadableError: The system does not hand out the file.
    """
    rows: Iterator[Any] = iter_records(path, record)
    row = next(rows, None)
    for id_ in _ids(traces):
        if row is not None and row.id == id_:
            yield row
            row = next(rows, None)
        else:
            yield None
    if row is not None:
        raise ArtifactError(
            f"'{path}': the row '{row.id}' belongs to no training trace of '{traces}' that follows the one before it. "
            f"Fix: remove the folder '{path.parent}', it is computed again"
        )


def _by_chunk(values: Iterator[R], chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, list[R]]]:
    """Yield the given chunks, which are in order, with the values of their traces out of those of all traces."""
    num_read = 0
    for chunk in chunks:
        start = chunk.first - num_read
        yield chunk, [*islice(values, start, start + chunk.num_traces)]
        num_read = chunk.first + chunk.num_traces


def _ids(traces: Path) -> Iterator[str]:
    """Ids of the training traces, in order."""
    return (id_ for table in _training(traces, ["id", "split"]) for id_ in table.column("id").to_pylist())


def _training(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the training traces of a file as `iter_tables` does; the columns include `split`."""
    return (table.filter(pc.equal(table.column("split"), TRAIN)) for table in iter_tables(path, columns))
