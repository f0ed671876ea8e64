"""Reads rows of a .jsonl, .parquet or .csv file and checks every field; bad rows are counted or, if strict, an error.

A row is usable if it has all fields as Unicode strings of at most `MAX_TEXT_BYTES`, the required ones not blank, and an
`id` that no earlier row has. Numbers and truth values in the fields that may be short, such as `id` and `answer`, are
read as text; null in a field that may be blank is empty. Other columns are ignored. An optional field is read as empty
if its value is not text. A field can also hold a list, whose texts are checked as well.
"""

import codecs
import csv
import decimal
import difflib
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cotpress.errors import ConfigError, DataError, did_you_mean

SUFFIXES = (".jsonl", ".parquet", ".csv")
_NEARBY = 12
"""Most files of a folder that are named in a message."""
_MOST_COLUMNS = 1000
"""Names of columns that are kept for messages."""
BATCH_ROWS = 256
"""Parquet rows in memory at the same time."""
MAX_TEXT_BYTES = 1_000_000
"""Longest text of a row, in bytes of UTF-8: a tokenizer needs 0.3 to 0.5 GB of memory for each million."""
MAX_LINE_BYTES = 16 * MAX_TEXT_BYTES
"""Longest line of a .jsonl file, columns that are ignored included."""
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class BadRow(Exception):  # noqa: N818 (a row that is counted, no error unless `strict`)
    """A row is unusable for a `reason`; `got` and `allowed` complete the message of a strict reader.

    Its reason counts rows, so it names no value of the row.
    """

    def __init__(self, reason: str, *, field: str | None = None, got: str, allowed: str) -> None:
        super().__init__(reason)
        self.reason, self.field, self.got, self.allowed = reason, field, got, allowed


GENERATION = "\0generation"
"""Column of a converted row with the end of its id, where a raw row makes several."""
_Rows = Iterator[tuple[int, bytes | Mapping[str, Any]]]
Convert = Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any] | BadRow]]
"""Rows in the columns of the fields, made from one raw row; raises or yields a `BadRow` for each that is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A column to read.

    Attributes:
        name: Name of the field.
        required: True if its text must not be blank, or its list not empty.
        optional: True if the column may be missing or hold something other than text; it is then read as empty, and a
            missing `id` by the reader's rule.
        is_list: True if it holds a list (.jsonl only).
        is_short: True if a number or truth value is read as text.
        columns: Names of the column, of which the first one present is read; empty: that of the field.
        without: Advice for a file without this column.
    """

    name: str
    required: bool
    optional: bool = False
    is_list: bool = False
    is_short: bool = False
    columns: Sequence[str] = ()
    without: str = ""


TRACE_FIELDS = (
    Field(name="id", required=True, is_short=True),
    Field(name="question", required=True),
    Field(name="thinking", required=True),
    Field(name="response", required=False, is_short=True),
    Field(name="answer", required=False, is_short=True),
)
"""The data contract of training rows."""

PROBLEM_FIELDS = (
    Field(name="id", required=True, is_short=True),
    Field(name="question", required=True),
    Field(
        name="answer",
        required=True,
        is_short=True,
        without="questions that have none: benchmark.unanswerable=true",
    ),
)
"""The data contract of benchmark rows."""


def text_fields(column: str) -> tuple[Field, ...]:
    """The data contract of rows whose text in `column` is compressed; the column, any but `id`, is read once."""
    others = ("question", "response", "answer")
    return (
        Field(name="id", required=False, optional=True, is_short=True),
        Field(name=column, required=True),
        *(Field(name=name, required=False, optional=True, is_short=True) for name in others if name != column),
    )


def reasons(dropped: Mapping[str, int], first: Mapping[str, str] | None = None) -> str:
    """Numbers of dropped rows for a message, the most frequent reason first: `2 x wrong answer, 1 x no answer`.

    `first` are the places of the first rows by reason, which are added: `2 x duplicate id (first: line 7)`.
    """
    places = {reason: f" (first: {place})" for reason, place in (first or {}).items()}
    return ", ".join(f"{n} x {reason}{places.get(reason, '')}" for reason, n in Counter(dropped).most_common())


class RowReader:
    """Reads the usable rows of one file.

    Args:
        path: A file with one of `SUFFIXES`; `~` stands for the home folder.
        fields: Columns to read; one of them is `id`.
        strict: Raise an error at the first bad row.
        key: Configuration key of the file, for messages.
        unnamed: Id of a row without one, by its number.
        convert: Makes the rows that are checked from the raw ones, of which all columns are then read.

    Attributes:
        dropped: Number of dropped rows by reason; complete once the rows are exhausted.
        emptied: Number of rows, by field, whose value was not text and is read as empty.
        first: Place of the first dropped row by reason, e.g. `line 3`.

    Raises:
        ConfigError: The file does not exist or may not be read, or its suffix is not one of `SUFFIXES`.
    """

    def __init__(
        self,
        path: Path,
        fields: Sequence[Field],
        *,
        strict: bool,
        key: str,
        unnamed: Callable[[int], str] = "row-{}".format,
        convert: Convert | None = None,
    ) -> None:
        self._path, self._fields, self._strict, self._key = checked_path(path, key), fields, strict, key
        self._unnamed, self._convert = unnamed, convert
        self.dropped: Counter[str] = Counter()
        self.emptied: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self._columns: set[str] = set()
        self._place = ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Usable rows in file order: a string or a list per field.

        Raises:
            DataError: The file has no usable row or not the format of its suffix; or a row is bad and `strict` is set.
        """
        for count in (self.dropped, self.emptied, self.first):
            count.clear()
        seen: set[str] = set()
        for number, values in self._converted():
            try:
                if isinstance(values, BadRow):
                    raise values
                row = {field.name: self._value(values, field) for field in self._fields}
                row["id"] = f"{row['id'] or self._unnamed(number)}{values.get(GENERATION, '')}"
                if row["id"] in seen:
                    raise BadRow(
                        "duplicate id", field="id", got=repr(row["id"])[:60], allowed="an id that no earlier row has"
                    )
            except BadRow as bad:
                self.drop(bad.reason, field=bad.field, got=bad.got, allowed=bad.allowed)
            else:
                seen.add(row["id"])
                yield row
        if not seen:
            raise DataError(self._nothing_usable(self.dropped.total()))

    def head(self, num_rows: int) -> list[Mapping[str, Any]]:
        """The first raw rows with all their columns, at most `num_rows`; those that cannot be parsed are left out.

        Raises:
            DataError: The file has not the format of its suffix.
        """
        return list(itertools.islice(self._parsed_rows(), num_rows))

    def _parsed_rows(self) -> Iterator[Mapping[str, Any]]:
        for _, raw in self._rows(all_columns=True):
            with suppress(BadRow):
                yield _parsed(raw) if isinstance(raw, bytes) else raw

    def _converted(self) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
        """Number of the raw row and values of every row to check, or the reason why it is bad."""
        for number, raw in self._rows(all_columns=self._convert is not None):
            self._place = f"{'line' if self._suffix == '.jsonl' else 'row'} {number}"
            num_made = 0
            try:
                values = _parsed(raw) if isinstance(raw, bytes) else raw
                if len(self._columns) < _MOST_COLUMNS:
                    self._columns.update(map(_printable, values))
                for made in (values,) if self._convert is None else self._convert(values):
                    num_made += 1
                    yield number, made
                if not num_made:
                    raise BadRow("nothing to read in the row", got="no text", allowed="at least one trace")
            except BadRow as bad:
                yield number, bad

    def drop(self, reason: str, *, got: str, allowed: str, field: str | None = None) -> None:
        """Count the row that was read last as dropped; if `strict` raise an error that names it.

        Callers with rules of their own drop rows by it, too.

        Raises:
            DataError: `strict` is set.
        """
        if self._strict:
            group = self._key.partition(".path")[0].partition(".hub")[0]
            place = self._place if field is None else f"{self._place}, field '{field}'"
            raise DataError(
                f"'{self._path}', {place}: {reason}. Got: {got}. Allowed: {allowed}. "
                f"Fix: correct the row, or drop and count such rows with {group}.strict=false."
            ) from None
        self.dropped[reason] += 1
        self.first.setdefault(reason, self._place)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def _suffix(self) -> str:
        return self._path.suffix.lower()

    def _rows(self, *, all_columns: bool) -> _Rows:
        """Number and content of every row: the line of a .jsonl file, or the values by column."""
        names = None if all_columns else {name for field in self._fields for name in _columns(field)}
        readers: dict[str, Callable[[], _Rows]] = {
            ".jsonl": self._lines, ".parquet": partial(self._parquet_rows, names), ".csv": self._csv_rows,
        }  # fmt: skip
        try:
            with self._path.open("rb") as handle:
                if handle.read(2) in _UTF_16:
                    raise DataError(
                        f"{self._key}: '{self._path}' is UTF-16, allowed: UTF-8. "
                        f"Fix: iconv -f UTF-16 -t UTF-8 '{self._path}'"
                    )
            yield from readers[self._suffix]()
        except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
            raise DataError(f"{self._key}: '{self._path}' cannot be read as {self._suffix[1:]}: {error}") from error

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as handle:
            for number in itertools.count(1):
                line = handle.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                rest = line
                while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = handle.readline(MAX_LINE_BYTES + 1)
                line = line.removeprefix(codecs.BOM_UTF8)  # also inside a file that is put together from several
                if line.strip():
                    yield number, line

    def _csv_rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        csv.field_size_limit(MAX_LINE_BYTES)
        with self._path.open(encoding="utf-8-sig", newline="") as handle:
            yield from enumerate(csv.DictReader(handle, strict=True), start=1)

    def _parquet_rows(self, names: Container[str] | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
        numbers = itertools.count(1)
        with pq.ParquetFile(self._path) as file:
            self._columns.update(map(_printable, file.schema_arrow.names))
            columns = [name for name in file.schema_arrow.names if names is None or name in names]
            # Without any of the columns all are read, so that the rows are counted as bad ones.
            for batch in file.iter_batches(BATCH_ROWS, columns=columns or None):
                values = {name: _cells(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
                for index in range(batch.num_rows):
                    yield next(numbers), {name: cells[index] for name, cells in values.items()}

    def _value(self, values: Mapping[str, Any], field: Field) -> Any:
        name = next((column for column in _columns(field) if column in values), None)
        if field.optional and (name is None or _is_null(values[name])):
            return ""
        try:
            if name is None:
                kind = "a list" if field.is_list else "text"
                present = f"the fields {', '.join(sorted(map(_printable, values))) or '(none)'}"
                wanted = " or ".join(_columns(field))
                raise BadRow(f"missing field '{wanted}'", field=field.name, got=present, allowed=kind)
            return _checked(values[name], name, field)
        except BadRow:
            if self._strict or not field.optional:
                raise
            self.emptied[field.name] += 1
            return ""

    def _nothing_usable(self, num_rows: int) -> str:
        fields = ", ".join(" or ".join(_columns(field)) for field in self._fields)
        if not num_rows:
            return f"{self._key}: '{self._path}' is empty. Allowed: one row per line with the fields {fields}"
        found = reasons(self.dropped, self.first)
        message = f"{self._key}: '{self._path}' has no usable row among {num_rows} ({found})."
        for field in self._fields:
            wanted = " or ".join(_columns(field))
            if self.dropped[f"missing field '{wanted}'"] == num_rows:
                fix = f" Fix, {field.without}" if field.without else ""
                return f"{message} It has no column '{wanted}'.{did_you_mean(field.name, self._columns)}{fix}"
        return f"{message} Allowed: the fields {fields}"


def checked_path(path: Path, key: str) -> Path:
    """The path of an existing, readable file with one of `SUFFIXES`; `~` stands for the home folder.

    Raises:
        ConfigError: There is no such file; `key` is the configuration key that names it.
    """
    path = Path(os.path.expanduser(path))  # noqa: PTH111 (an unknown user stays as typed)
    if not path.is_file():
        raise ConfigError(f"{key}: {_no_such_file(path, key)}")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{key}: '{path}' may not be read. Fix: change its permissions")
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{key}: got '{path}', allowed: a file that ends in {_ENDS}")
    return path


def _columns(field: Field) -> Sequence[str]:
    return field.columns or (field.name,)


def _printable(name: object) -> str:
    """A column name for messages, which cannot show lone surrogates."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _parsed(line: bytes) -> Mapping[str, Any]:
    allowed = "one JSON object per line"
    if len(line) > MAX_LINE_BYTES:
        raise BadRow("line too long", got=f"over {MAX_LINE_BYTES:,} bytes", allowed="a shorter line")
    try:
        values = json.loads(_decoded(line))
    except (ValueError, RecursionError) as error:
        raise BadRow("invalid JSON", got=str(error), allowed=allowed) from None
    if not isinstance(values, dict):
        raise BadRow("not a JSON object", got=_kind(values), allowed=allowed)
    return values


def _decoded(text: bytes, field: str | None = None) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{text[error.start]:02x} at position {error.start}"
        raise BadRow("not UTF-8", field=field, got=got, allowed="UTF-8 text") from None


def _checked(value: Any, name: str, field: Field) -> Any:
    """The text or list in the column `name`; a `BadRow` if it breaks the rules of the module's docstring."""

    def bad(reason: str, got: str, allowed: str) -> BadRow:
        return BadRow(reason, field=name, got=got, allowed=allowed)

    if _is_null(value) and not field.required and not field.is_list:
        return ""
    if field.is_short:
        value = _short_text(value)
    if isinstance(value, bytes) and not field.is_list:
        value = _decoded(value, name)
    if not isinstance(value, list if field.is_list else str):
        kind = "a list" if field.is_list else "a string or a number" if field.is_short else "a string"
        raise bad(f"wrong type of '{name}'", _kind(value), kind)
    if field.required and not value:
        raise bad(f"empty {name}", repr(value), "a list that is not empty" if field.is_list else "text")
    if field.required and isinstance(value, str) and not value.strip():
        raise bad(f"empty {name}", repr(value)[:60], "text that is not blank")
    for text in _texts(value):
        if (problem := text_problem(text)) is not None:
            raise bad(f"{problem[0]} in '{name}'", *problem[1:])
    return value


def text_problem(text: str) -> tuple[str, str, str] | None:
    """Reason why a text cannot be used, what it holds, and what is allowed; None if it can."""
    if "\0" in text:
        return "NUL character", "U+0000", "text without it"
    try:
        num_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        return "lone surrogate", f"U+{ord(text[error.start]):04X} at position {error.start}", "valid Unicode"
    if num_bytes > MAX_TEXT_BYTES:
        limit = f"{MAX_TEXT_BYTES:,} bytes"
        return f"text over {limit}", f"{num_bytes:,} bytes", f"at most {limit}. Split it into several rows"
    return None


def _texts(value: Any) -> Iterator[str]:
    """The text itself, or all texts at any depth of a list; keys of objects are none."""
    open_values = [value]
    while open_values:
        match open_values.pop():
            case str() as text:
                yield text
            case list() as items:
                open_values += items
            case dict() as items:
                open_values += items.values()


def _is_null(value: Any) -> bool:
    """True for null, which tables of numbers write as NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _short_text(value: Any) -> Any:
    """A number or truth value as JSON writes it, a whole one without a decimal point; other values as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return format(value.to_integral_value() if value == value.to_integral_value() else value.normalize(), "f")
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return str(value) if isinstance(value, int) else value


def _cells(column: pa.Array) -> list[Any]:
    """Python values of a column, lists and structs included; a text that is not UTF-8 is bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):  # a cell has no value in Python
        return [_plain(cell) for cell in column]


def _plain(cell: Any) -> Any:
    """Python value of a cell; of one that has none its bytes, or the cell itself."""
    if not cell.is_valid:
        return None
    match cell:
        case pa.StructScalar():
            return {name: _plain(part) for name, part in cell.items()}
        case pa.ListScalar():  # a map, too
            return [_plain(part) for part in cell.values]
        case pa.StringScalar():
            return cell.as_buffer().to_pybytes()
        case pa.DictionaryScalar():
            return _plain(cell.value)
    try:
        return cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return cell


def _kind(value: object) -> str:
    """Name of a value's type in its file format."""
    if isinstance(value, pa.Scalar):
        return str(value.type)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else type(value).__name__)


_ENDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


def _no_such_file(path: Path, key: str) -> str:
    folder = path if path.is_dir() else next((p for p in path.absolute().parents if p.is_dir()), Path())
    nearby = sorted(_printable(p.name) for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if path.is_dir():
        held = f"it holds {', '.join(nearby[:_NEARBY])}" if nearby else f"it holds no file that ends in {_ENDS}"
        name = nearby[0] if len(nearby) == 1 else "FILE"
        return f"'{path}' is a folder, allowed: one file; {held}. Fix: {key}={path / name}"
    close = difflib.get_close_matches(path.name, nearby, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    there = f" '{folder}' holds {', '.join(nearby[:_NEARBY])}." if nearby else ""
    what = "is no regular file" if path.exists() else "does not exist"
    return f"'{path}' {what}.{hint}{there} Fix: name a file that ends in {_ENDS}."
