"""Records to parquet and back, with the column types of all records.

Pages have checksums, which are verified on reading: artifact files are also covered by their manifest, but the shards
of unfinished work, exports and the files of a run directory are not.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cotpress.errors import ArtifactError
from cotpress.records import Span, Trace
from cotpress.store.artifacts import replaced
from cotpress.store.paths import is_unreadable, unreadable

R = TypeVar("R")

ROWS_AT_ONCE = 128  # records in memory when a file is streamed

_SPAN = pa.struct({"start": pa.int32(), "end": pa.int32()})
_LABELLED = pa.struct({"start": pa.int32(), "end": pa.int32(), "kind": pa.string(), "essential": pa.bool_()})
_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "int | None": pa.int64(),
    "float": pa.float64(),
    "float | None": pa.float64(),
    "bool": pa.bool_(),
    "NDArray[np.int32]": pa.list_(pa.int32()),
    "NDArray[np.float32]": pa.list_(pa.float32()),
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


def read_records(paths: Path | Iterable[Path], record: type[R]) -> list[R]:
    """Read records back from one or several parquet files.

    Raises:
        ArtifactError: A file is not parquet, or its columns are not those of `record`.
        UnreadableError: The system does not hand out a file.
    """
    records: list[R] = []
    for path in [paths] if isinstance(paths, Path) else paths:
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            if is_unreadable(error):
                raise unreadable(path, error) from error
            raise ArtifactError(f"'{path}' cannot be read as parquet: {error}") from error
        if table.schema.names != schema(record).names:
            raise ArtifactError(f"'{path}' has columns {table.schema.names}, expected {schema(record).names}")
        records.extend(from_table(table, record))
    return records


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
    return [flat[a:b] for a, b in itertools.pairwise(bounds)]
