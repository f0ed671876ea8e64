"""Reads rows of a .jsonl or .parquet file and checks every field; bad rows are counted or, if strict, an error.

A row is usable if it has all fields as Unicode strings (`id` may be a whole number), the required ones not blank, and
an `id` that no earlier row has. Other columns are ignored. An optional field is read as empty if its value is not text.
A field can also hold a list, whose items the caller checks.
"""

import codecs
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cotpress.errors import ConfigError, DataError, did_you_mean

SUFFIXES = (".jsonl", ".parquet")
_NEARBY = 12
"""Most files of a folder that are named in a message."""
BATCH_ROWS = 1024
"""Parquet rows in memory at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column to read.

    Attributes:
        name: Name of the column.
        required: True if its text must not be blank, or its list not empty.
        optional: True if the column may be missing or hold something other than text; it is then read as empty, and a
            missing `id` as `row-NUMBER`.
        is_list: True if it holds a list (.jsonl only).
        without: Advice for a file without this column.
    """

    name: str
    required: bool
    optional: bool = False
    is_list: bool = False
    without: str = ""


TRACE_FIELDS = (
    Field(name="id", required=True),
    Field(name="question", required=True),
    Field(name="thinking", required=True),
    Field(name="response", required=False),
    Field(name="answer", required=False),
)
"""The data contract of training rows."""

PROBLEM_FIELDS = (
    Field(name="id", required=True),
    Field(name="question", required=True),
    Field(name="answer", required=True, without="questions that have none: benchmark.unanswerable=true"),
)
"""The data contract of benchmark rows."""


def text_fields(column: str) -> tuple[Field, ...]:
    """The data contract of rows whose text in `column` is compressed; the column, any but `id`, is read once."""
    others = ("question", "response", "answer")
    return (
        Field(name="id", required=False, optional=True),
        Field(name=column, required=True),
        *(Field(name=name, required=False, optional=True) for name in others if name != column),
    )


def reasons(dropped: Counter[str]) -> str:
    """Numbers of dropped rows for a message, the most frequent reason first: `2 x wrong answer, 1 x no answer`."""
    return ", ".join(f"{count} x {reason}" for reason, count in dropped.most_common())


class _BadRowError(Exception):
    """A row is unusable."""

    def __init__(self, reason: str, *, field: str | None = None, got: str, allowed: str) -> None:
        super().__init__(reason)
        self.reason, self.field, self.got, self.allowed = reason, field, got, allowed


class RowReader:
    """Reads the usable rows of one file.

    Args:
        path: A .jsonl or .parquet file.
        fields: Columns to read; one of them is `id`.
        strict: Raise an error at the first bad row.
        key: Configuration key of the file, for messages.

    Raises:
        ConfigError: The file does not exist.
        DataError: It cannot be read, or its suffix is not one of `SUFFIXES`.
    """

    def __init__(self, path: Path, fields: Sequence[Field], *, strict: bool, key: str) -> None:
        self._path, self._fields, self._strict, self._key = path, fields, strict, key
        self.dropped: Counter[str] = Counter()
        self.emptied: Counter[str] = Counter()
        self._columns: set[str] = set()
        if not path.is_file():
            raise ConfigError(f"{key}: {_no_such_file(path, key)}")
        if not os.access(path, os.R_OK):
            raise DataError(f"{key}: '{path}' may not be read. Fix: change its permissions")
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{key}: got '{path}', allowed: a file that ends in {' or '.join(SUFFIXES)}")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Usable rows in file order: a string or a list per field.

        Afterwards `dropped` counts the other rows by reason, and `emptied` counts, for each optional field, the rows
        whose value was not text.

        Raises:
            DataError: The file has no usable row or not the format of its suffix; or a row is bad and `strict` is set.
        """
        self.dropped.clear()
        self.emptied.clear()
        seen: set[str] = set()
        num_rows = 0
        is_parquet = self._path.suffix.lower() == ".parquet"
        for number, raw in self._parquet_rows() if is_parquet else self._lines():
            num_rows += 1
            try:
                values = _parsed(raw) if isinstance(raw, bytes) else raw
                if not seen:  # the columns are named only if no row is usable
                    self._columns.update(values)
                row = {field.name: self._value(values, field) for field in self._fields}
                row["id"] = row["id"] or f"row-{number}"
                if row["id"] in seen:
                    raise _BadRowError(
                        "duplicate id", field="id", got=repr(row["id"]), allowed="an id that no earlier row has"
                    )
            except _BadRowError as bad:
                if self._strict:
                    place = f"{'row' if is_parquet else 'line'} {number}"
                    field = "" if bad.field is None else f", field '{bad.field}'"
                    raise DataError(
                        f"'{self._path}', {place}{field}: {bad.reason}. Got: {bad.got}. Allowed: {bad.allowed}. "
                        "Fix: correct the row, or drop and count such rows with data.strict=false."
                    ) from None
                self.dropped[bad.reason] += 1
            else:
                seen.add(row["id"])
                yield row
        if not seen:
            raise DataError(self._nothing_usable(num_rows))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if line.strip():
                    yield number, line

    def _parquet_rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        names = {field.name for field in self._fields}
        numbers = itertools.count(1)
        try:
            with pq.ParquetFile(self._path) as file:
                self._columns.update(file.schema_arrow.names)
                columns = [name for name in file.schema_arrow.names if name in names]
                # Without any of the columns all are read, so that the rows are counted as bad ones.
                for batch in file.iter_batches(BATCH_ROWS, columns=columns or None):
                    values = {name: _cells(batch.column(name)) for name in columns}
                    for index in range(batch.num_rows):
                        yield next(numbers), {name: cells[index] for name, cells in values.items()}
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self._key}: '{self._path}' cannot be read as parquet: {error}") from error

    def _value(self, values: Mapping[str, Any], field: Field) -> Any:
        if field.optional and values.get(field.name) is None:
            return ""
        try:
            return _checked(values, field)
        except _BadRowError:
            if self._strict or not field.optional:
                raise
            self.emptied[field.name] += 1
            return ""

    def _nothing_usable(self, num_rows: int) -> str:
        fields = ", ".join(field.name for field in self._fields)
        if not num_rows:
            return f"{self._key}: '{self._path}' is empty. Allowed: one row per line with the fields {fields}"
        message = f"{self._key}: '{self._path}' has no usable row among {num_rows} ({reasons(self.dropped)})."
        for field in self._fields:
            if self.dropped[f"missing field '{field.name}'"] == num_rows:
                fix = f" Fix, {field.without}" if field.without else ""
                return f"{message} It has no column '{field.name}'.{did_you_mean(field.name, self._columns)}{fix}"
        return f"{message} Allowed: the fields {fields}"


def _parsed(line: bytes) -> Mapping[str, Any]:
    allowed = "one JSON object per line"
    try:
        values = json.loads(_decoded(line))
    except (ValueError, RecursionError) as error:
        raise _BadRowError("invalid JSON", got=str(error), allowed=allowed) from None
    if not isinstance(values, dict):
        raise _BadRowError("not a JSON object", got=_kind(values), allowed=allowed)
    return values


def _decoded(text: bytes, field: str | None = None) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{text[error.start]:02x} at position {error.start}"
        raise _BadRowError("not UTF-8", field=field, got=got, allowed="UTF-8 text") from None


def _checked(values: Mapping[str, Any], field: Field) -> Any:
    """The text or list of one field; a `_BadRowError` if it breaks the rules of the module's docstring."""
    name = field.name

    def bad(reason: str, got: str, allowed: str) -> _BadRowError:
        return _BadRowError(reason, field=name, got=got, allowed=allowed)

    kind = "a list" if field.is_list else "a string or a whole number" if name == "id" else "a string"
    if name not in values:
        present = f"the fields {', '.join(sorted(map(str, values))) or '(none)'}"
        raise bad(f"missing field '{name}'", present, kind)
    value = values[name]
    if name == "id" and type(value) is int:
        value = str(value)
    if isinstance(value, bytes) and not field.is_list:
        value = _decoded(value, name)
    if not isinstance(value, list if field.is_list else str):
        raise bad(f"wrong type of '{name}'", _kind(value), kind)
    if isinstance(value, list):
        if field.required and not value:
            raise bad(f"empty {name}", "[]", "a list that is not empty")
        return value
    if field.required and not value.strip():
        raise bad(f"empty {name}", repr(value), "text that is not blank")
    if "\0" in value:
        raise bad(f"NUL character in '{name}'", "U+0000", "text without it")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        got = f"U+{ord(value[error.start]):04X} at position {error.start}"
        raise bad(f"lone surrogate in '{name}'", got, "valid Unicode") from None
    return value


def _cells(column: pa.Array) -> list[Any]:
    """Python values of a column; strings as bytes, so that one cell that is not UTF-8 does not fail the whole batch."""
    kind = pa.types
    if kind.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind.is_string(column.type) or kind.is_string_view(column.type) or kind.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    elif not kind.is_integer(column.type):  # every other type is wrong, columns of bytes included
        return [cell if cell.is_valid else None for cell in column]
    return list(column.to_pylist())


def _kind(value: object) -> str:
    """Name of a value's type in its file format."""
    if isinstance(value, pa.Scalar):
        return str(value.type)
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else type(value).__name__)


def _no_such_file(path: Path, key: str) -> str:
    ends = " or ".join(SUFFIXES)
    folder = path if path.is_dir() else next((p for p in path.absolute().parents if p.is_dir()), Path())
    nearby = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if path.is_dir():
        held = f"it holds {', '.join(nearby[:_NEARBY])}" if nearby else f"it holds no file that ends in {ends}"
        return f"'{path}' is a folder, allowed: one file; {held}. Fix: {key}={path / (nearby[0] if nearby else 'FILE')}"
    there = f" Files in '{folder}':{did_you_mean(path.name, nearby)}" if nearby else ""
    return f"'{path}' does not exist.{there} Fix: name a file that ends in {ends}."
