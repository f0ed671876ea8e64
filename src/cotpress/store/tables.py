"""Records to parquet and back, with the column types of all records.

Pages have checksums, which are verified on reading: artifact files are also covered by their manifest, but the shards
of unfinished work, exports and the files of a run directory are not.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cotpress.errors import ArtifactError
from cotpress.records import Span, Trace
from cotpress.store.artifacts import replaced
from cotpress.store.paths import is_unreadable, unreadable

R = TypeVar("R")

ROWS_AT_ONCE = 128  # records in memory when a file is streamed
ROW_GROUP_BYTES = 16 * 2**20
"""Size in memory from which on a `RecordWriter` writes what it holds; no reader has to hold more of a file."""
_BUFFER_BYTES = 2**20
"""Of a column that is streamed; a column would otherwise be read whole, and a mapped file counts as memory in use."""

_SPAN = pa.struct({"start": pa.int32(), "end": pa.int32()})
_LABELLED = pa.struct({"start": pa.int32(), "end": pa.int32(), "kind": pa.string(), "essential": pa.bool_()})
_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "int | None": pa.int64(),
    "float": pa.float64(),
    "float | None": pa.float64(),
    "bool": pa.bool_(),
    "bool | None": pa.bool_(),
    "NDArray[np.int32]": pa.list_(pa.int32()),
    "NDArray[np.float32]": pa.list_(pa.float32()),
    "NDArray[np.float32] | None": pa.list_(pa.float32()),
    "NDArray[np.bool_]": pa.list_(pa.bool_()),
    "tuple[tuple[int, int], ...]": pa.list_(_SPAN),
    "tuple[Span, ...]": pa.list_(_LABELLED),
}
"""Column types by the annotation of a record's field; `offsets`, int32 `[n, 2]`, are spans."""


def schema(record: type) -> pa.Schema:
    """The parquet schema of a record class."""
    fields = []
    for f in dataclasses.fields(record):
        hint = f.type if isinstance(f.type, str) else f.type.__name__
        fields.append(pa.field(f.name, pa.list_(_SPAN) if f.name == "offsets" else _TYPES[hint]))
    return pa.schema(fields)


def to_table(records: Sequence[Any], record: type) -> pa.Table:
    """Records of one class as an arrow table."""
    fields = schema(record)
    columns = [_column([getattr(r, f.name) for r in records], f.type) for f in fields]
    return pa.Table.from_arrays(columns, schema=fields)


def from_table(table: pa.Table, record: type[R]) -> list[R]:
    """The rows of an arrow table as records."""
    columns = {name: _values(table.column(name)) for name in table.schema.names}
    return [record(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind) and kind.value_type == _SPAN:
        parts = [np.asarray(v, dtype=np.int32).reshape(-1, 2) for v in values]
        flat = np.concatenate([np.empty((0, 2), dtype=np.int32), *parts])
        bounds = np.cumsum([0, *(len(v) for v in values)]).astype(np.int32)
        pairs = pa.StructArray.from_arrays([pa.array(flat[:, 0]), pa.array(flat[:, 1])], names=["start", "end"])
        return pa.ListArray.from_arrays(pa.array(bounds), pairs)
    if pa.types.is_list(kind) and kind.value_type == _LABELLED:
        values = [[dataclasses.asdict(s) for s in v] for v in values]
    return pa.array(values, type=kind)


def write_records(path: Path, records: Sequence[Any], record: type) -> None:
    """Write records as one parquet file by an atomic rename; equal records give equal bytes."""
    with replaced(path) as temporary:
        pq.write_table(to_table(records, record), temporary, compression="zstd", write_page_checksum=True)


class RecordWriter:
    """Appends records to a new parquet file and holds `ROW_GROUP_BYTES` of them at most; a context manager.

    The same calls give the same bytes. A file below that size equals the one that `write_records` makes. After an
    exception the file lacks records, so it lies where it is taken for unfinished: in the folder of an artifact that is
    being made, or in the place of `replaced`.
    """

    def __init__(self, path: Path, record: type) -> None:
        self._record, self._held, self._num_bytes = record, list[pa.Table](), 0
        self._writer = pq.ParquetWriter(path, schema(record), compression="zstd", write_page_checksum=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, records: Iterable[Any]) -> None:
        """Append records."""
        left = iter(records)
        while batch := list(itertools.islice(left, ROWS_AT_ONCE)):
            self.write_table(to_table(batch, self._record))

    def write_table(self, table: pa.Table) -> None:
        """Append the rows of a table with the schema of the records."""
        self._held.append(table.replace_schema_metadata())
        self._num_bytes += table.nbytes
        if self._num_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held).combine_chunks())
        self._held, self._num_bytes = [], 0


def read_records(paths: Path | Iterable[Path], record: type[R]) -> list[R]:
    """Read records back from one or several parquet files.

    Raises:
        ArtifactError: A file is not parquet, or its columns are not those of `record`.
        UnreadableError: The system does not hand out a file.
    """
    records: list[R] = []
    for path in [paths] if isinstance(paths, Path) else paths:
        with _reading(path):
            table = pq.read_table(path, page_checksum_verification=True)
        _check_columns(path, table.schema, record)
        records.extend(from_table(table, record))
    return records


def iter_records(path: Path, record: type[R]) -> Iterator[R]:
    """Yield the records of a parquet file in order, a bounded number of them in memory; errors as `read_records`."""
    with _reading(path):
        _check_columns(path, pq.read_schema(path), record)
        for table in iter_tables(path):
            yield from from_table(table, record)


def iter_tables(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a parquet file in order, `ROWS_AT_ONCE` at a time."""
    with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):  # one call for all of them keeps the buffers of each to the end
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
                yield pa.Table.from_batches([batch])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into those of `read_records`."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        if is_unreadable(error):
            raise unreadable(path, error) from error
        raise ArtifactError(f"'{path}' cannot be read as parquet: {error}") from error


def _check_columns(path: Path, found: pa.Schema, record: type) -> None:
    if found.names != schema(record).names:
        raise ArtifactError(f"'{path}' has columns {found.names}, expected {schema(record).names}")


def training_traces(path: Path) -> list[Trace]:
    """Read the traces of a file that are not held out; exceptions as `read_records`."""
    return [trace for trace in read_records(path, Trace) if trace.split == "train"]


def _values(column: pa.ChunkedArray) -> list[Any]:
    # Chunk by chunk: in one array the 32-bit offsets would overflow at 2 GiB of text.
    return [value for chunk in column.chunks for value in _chunk_values(chunk)]


def _chunk_values(array: pa.Array) -> list[Any]:
    if not pa.types.is_list(array.type):
        return list(array.to_pylist())
    if array.type.value_type == _LABELLED:
        return [tuple(Span(**s) for s in row) for row in array.to_pylist()]
    bounds = array.offsets.to_numpy()
    inner = array.values
    if array.type.value_type == _SPAN:
        starts, ends = inner.field("start").to_numpy(), inner.field("end").to_numpy()
        flat = np.stack([starts, ends], axis=1).astype(np.int32)
    else:
        flat = inner.to_numpy(zero_copy_only=False)
    values: list[Any] = [flat[a:b] for a, b in itertools.pairwise(bounds)]
    if array.null_count:
        values = [value if valid else None for value, valid in zip(values, array.is_valid().to_pylist(), strict=True)]
    return values
