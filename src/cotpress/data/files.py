"""Files with rows: the files that a path names, and the raw rows in them, read one after the other.

A path is that of a file, of a folder, which stands for all files of `ENDINGS` in it at any depth, or a pattern with
`*`, `?`, `[...]` or `**`. Hidden files and the metadata of saved data sets are left out.

| ending | rows |
|---|---|
| .jsonl, .ndjson | one JSON object per line |
| .json | an array of objects, objects one after the other, one per line or over several, or one object around a list |
| .csv | lines under a header |
| .parquet | rows of any columns; lists and structs become Python's lists and dicts |

The first four may be compressed (.gz, .zst). Nothing is read whole.

A .json file of one object holds its rows in a list (`{"version": 1, "data": [{...}, {...}]}`) if only one of its values
is a list with objects. It is a row itself if it has a question, or if that list is a conversation.
"""

import codecs
import csv
import functools
import io
import itertools
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cotpress.errors import ConfigError, DataError
from cotpress.store.artifacts import file_sha256
from cotpress.store.paths import HUB_SCHEME, files_below, is_pattern, matching, neighbours

_LINES = (".jsonl", ".ndjson")
_COMPRESSION = {"": None, ".gz": "gzip", ".zst": "zstd"}
ENDINGS = (*(kind + packed for kind in (*_LINES, ".json", ".csv") for packed in _COMPRESSION), ".parquet")
ENDS = ".jsonl, .ndjson, .json, .csv (also followed by .gz or .zst) or .parquet"
_METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Files of the library `datasets` that describe a data set."""
_NEARBY = 12
"""Most files that are named in a message."""
BATCH_ROWS = 256
"""Rows of a table in memory at the same time."""
MAX_LINE_BYTES = 16_000_000
"""Longest line of a .jsonl file, and longest object of a .json file, columns that are ignored included."""
_QUESTIONS = frozenset({"question", "problem", "prompt", "instruction", "query", "input"})
"""Columns whose text says that an object is a row itself, not one around rows."""
_CHUNK = 1 << 20
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NO_JSON = "cannot be read as json"
_AS_LINES = "Fix: correct it, or give one object per line as .jsonl, where only the bad line is dropped"


class Raw(NamedTuple):
    """A row as it is stored.

    Attributes:
        number: Its number in the whole source, counted from 1; blank lines count.
        place: Its place for messages: `line 3`, `row 3`, with several files `b.csv, row 3`.
        content: A line of JSON as bytes, cut off after `MAX_LINE_BYTES` + 1, or the value: by column, if it is a row.
    """

    number: int
    place: str
    content: Any


class _FormatError(Exception):
    """A file has not the format of its ending."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files that are read as one, in order.

    Attributes:
        path: The path that names them.
        files: At least one.
        left_out: Files at this path that are not read.
        key: Setting of the path, for messages.
    """

    path: Path
    files: Sequence[Path]
    left_out: Sequence[Path]
    key: str

    def __str__(self) -> str:
        return f"'{self.path}' ({self.layout})" if self.layout else f"'{self.path}'"

    @property
    def identity(self) -> dict[str, Any]:
        """Format and content of every file, in order; their paths are not part of it."""
        files = [{"format": ending(file), "sha256": sha256(file)} for file in self.files]
        return {"source": "file", **files[0]} if len(files) == 1 else {"source": "files", "files": files}

    @property
    def note(self) -> str:
        """The files that are read and left out, if they are several; else empty."""
        if len(self.files) == 1 and not self.left_out:
            return ""
        left_out = f"; left out: {_names(self.left_out, self._folder)}" if self.left_out else ""
        return f"{len(self.files)} files of '{self.path}': {_names(self.files, self._folder)}{left_out}"

    @property
    def layout(self) -> str:
        """The lists that hold the rows of objects around them: `list 'data'`; empty without."""
        lists = list(dict.fromkeys(name for file in self.files if (name := _list_with_rows(file)) is not None))
        return f"{'list' if len(lists) == 1 else 'lists'} {_quoted(lists)}" if lists else ""

    def rows(self, columns: Container[str] | None = None) -> Iterator[Raw]:
        """All rows, files one after the other.

        Args:
            columns: Columns to read of formats that store them apart; None reads all.

        Raises:
            DataError: A file cannot be read, or has not the format of its ending.
        """
        before = 0
        for file in self.files:
            name = f"{file.relative_to(self._folder)}, " if len(self.files) > 1 else ""
            number = 0
            try:
                for number, unit, content in _rows_of(file, columns):
                    yield Raw(before + number, f"{name}{unit} {number}", content)
            except _FormatError as error:
                raise DataError(f"{self.key}: '{file}' {self._with_fix(str(error), file)}") from None
            except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
                reason = f"cannot be read as {ending(file)[1:]}: {error}"
                raise DataError(f"{self.key}: '{file}' {self._with_fix(reason, file)}") from error
            before += number

    def _with_fix(self, reason: str, file: Path) -> str:
        """The fault of a file with its fix; one of several can also be removed."""
        fixed = reason if "Fix: " in reason else f"{reason.rstrip('.')}. Fix: restore it"
        rest = "the other file is" if len(self.files) == 2 else f"the other {len(self.files) - 1} files are"
        return f"{fixed}, or remove '{file}', and {rest} read" if len(self.files) > 1 else fixed

    @property
    def _folder(self) -> Path:
        return Path(os.path.commonpath([file.parent for file in (*self.files, *self.left_out)]))


def find_files(path: str | Path, key: str) -> Files:
    """The files at a path; `~` stands for the home folder.

    Raises:
        ConfigError: There is none, or one may not be read; `key` is the setting of the path.
    """
    if not str(path):
        raise ConfigError(f"{key}: got '', allowed: the path of a file or folder, or a pattern such as 'DIR/*.jsonl'")
    if str(path).startswith(HUB_SCHEME):
        fix = f"{_hub(key)} {key}={path}" if _hub(key) else "download the file and name it"
        raise ConfigError(f"{key}: '{path}' is on the Hugging Face hub, allowed: files of this machine. Fix: {fix}")
    place = Path(os.path.expanduser(path))  # noqa: PTH111 (an unknown user stays as typed)
    if place.is_dir():
        _refuse_saved(place, key)
        try:
            found = [f for f in files_below(place, key) if not _is_hidden(f.relative_to(place))]
            links = [f for f in place.rglob("*") if f.is_symlink() and not _is_hidden(f.relative_to(place))]
        except OSError as error:
            raise ConfigError(f"{key}: '{place}' cannot be read: {error}. Fix: change its permissions") from error
    elif is_pattern(place):
        links = [f for f in matching(place) if f.name[0] != "." or place.name[0] == "."]
        found = [f for f in links if f.is_file()]
    else:
        found, links = [place] if place.is_file() else [], []
    if dead := next((f for f in links if ending(f) and f.is_symlink() and not f.exists()), None):
        raise ConfigError(f"{key}: '{dead}' is a link to a file that does not exist. Fix: restore or remove it")
    files = [file for file in found if ending(file) and (file.name not in _METADATA or file == place)]
    if not files:
        raise ConfigError(f"{key}: {_nothing_there(place, found, key)}")
    for file in files:
        if not os.access(file, os.R_OK):
            raise ConfigError(f"{key}: '{file}' may not be read. Fix: change its permissions")
    read = set(files)
    return Files(place, files, [file for file in found if file not in read], key)


def table_rows(table: pa.Table | pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Values by column of every row; those of a text that is not UTF-8 are bytes."""
    columns = {name: _cells(column) for name, column in zip(table.schema.names, table.columns, strict=True)}
    return ({name: cells[index] for name, cells in columns.items()} for index in range(table.num_rows))


def ending(file: Path) -> str:
    """The ending of a file that can be read, e.g. `.jsonl.gz`; empty for another one."""
    name = file.name.lower()
    return next((known for known in ENDINGS if name.endswith(known)), "")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _names(files: Sequence[Path], folder: Path) -> str:
    names = [os.path.relpath(file, folder) for file in files[:_NEARBY]]
    more = f" and {len(files) - _NEARBY} more" if len(files) > _NEARBY else ""
    return ", ".join(names) + more


def sha256(file: Path) -> str:
    """SHA-256 of the content of a file, computed once for each state of the file."""
    state = file.stat()
    return _hashed(file, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=100_000)
def _hashed(file: Path, *state: int) -> str:
    return file_sha256(file)


def _quoted(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NEARBY} more" if len(names) > _NEARBY else ""
    return ", ".join(f"'{_printable(name)}'" for name in names[:_NEARBY]) + more


def _refuse_saved(folder: Path, key: str) -> None:
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        rows = "save its rows with to_parquet or to_json and name that file"
        fix = f"{_hub(key)} {key}={folder}" if _hub(key) else rows
        raise ConfigError(f"{key}: '{folder}' is a data set saved by save_to_disk. Fix: {fix}")


def _hub(key: str) -> str:
    """The setting that reads data sets at the place of a path; empty where only files are read."""
    return {"data.path": "data=hub", "labelled.path": "data@labelled=hub"}.get(key, "")


def _nothing_there(place: Path, found: Sequence[Path], key: str) -> str:
    """Message for a path at which there is no file of a known ending."""
    if place.is_file():
        return f"got '{place}', allowed: a file that ends in {ENDS}"
    folder = place if place.is_dir() else next((p for p in place.absolute().parents if p.is_dir()), Path())
    others = f"; it has {_names(found, folder)}" if found else ""
    if place.is_dir():
        return f"'{place}' is a folder without a file that ends in {ENDS}{others}. Fix: {key}=FILE"
    nearby = neighbours(place, lambda p: bool(ending(p)) or p.is_dir())
    if is_pattern(place):
        what = f"has no file that ends in {ENDS}" if found else "matches no file"
        return f"'{place}' {what}{others}.{nearby} Fix: another pattern, in quotes: '{key}=DIR/*.jsonl'"
    what = "is no regular file" if place.exists() else "does not exist"
    return f"'{place}' {what}.{nearby} Fix: name a file that ends in {ENDS}, a folder, or a pattern"


def _printable(text: str) -> str:
    """A text for messages, which cannot show lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _rows_of(file: Path, columns: Container[str] | None) -> Iterator[tuple[int, str, Any]]:
    """Number in the file, name of the unit that is counted, and content of every row."""
    whole = ending(file)
    if whole == ".parquet":
        yield from ((number, "row", row) for number, row in enumerate(_parquet_rows(file, columns), start=1))
        return
    kind, packed = next((whole.removesuffix(p), p) for p in (".gz", ".zst", "") if whole.endswith(p))
    with _opened(file, _COMPRESSION[packed]) as handle:
        if handle.peek(2)[:2] in _UTF_16:
            raise _FormatError(f"is UTF-16, allowed: UTF-8. Fix: iconv -f UTF-16 -t UTF-8 '{file}'")
        if kind in _LINES:
            yield from _lines(handle)
        elif kind == ".csv":
            csv.field_size_limit(MAX_LINE_BYTES)
            with io.TextIOWrapper(handle, encoding="utf-8-sig", newline="") as text:
                rows = csv.DictReader(text, strict=True)
                yield from ((number, "row", row) for number, row in enumerate(rows, start=1))
        else:
            yield from _json_rows(handle, _list_with_rows(file))


@contextmanager
def _opened(file: Path, compression: str | None) -> Iterator[io.BufferedReader]:
    if compression is None:
        with file.open("rb") as handle:
            yield handle
    else:
        with pa.input_stream(str(file), compression=compression) as stream:
            yield io.BufferedReader(stream, _CHUNK)


def _lines(handle: io.BufferedReader, start: int = 1) -> Iterator[tuple[int, str, bytes]]:
    """Lines that are not blank, the first one with the number `start`."""
    for number in itertools.count(start):
        line = handle.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = handle.readline(MAX_LINE_BYTES + 1)
        line = line.removeprefix(codecs.BOM_UTF8)  # also inside a file that is put together from several
        if line.strip():
            yield number, "line", line


def _json_rows(handle: io.BufferedReader, list_: str | None) -> Iterator[tuple[int, str, Any]]:
    """Rows of an array, of lines, of objects over several lines, or in the list of this name of an object around it."""
    number = 1 + _skip_blank(handle)
    start = handle.peek(1)[:1]
    if start not in (b"", b"[", b"{"):
        raise _FormatError(f"{_NO_JSON}: it is neither an array of objects nor objects one after the other")
    line = handle.readline(MAX_LINE_BYTES + 1) if start == b"{" and list_ is None else b""
    if _is_object(line):
        yield number, "line", line
        yield from _lines(handle, number + 1)
    elif start:
        with io.TextIOWrapper(handle, encoding="utf-8") as stream:
            text = _JsonText(stream, line.decode())
            values: Iterator[Any]
            if list_ is not None:
                values = (value for name, value, is_element in _members(text) if is_element and name == list_)
            else:
                values = _array(text, is_alone=True) if start == b"[" else _texts(text)
            yield from ((row, "row", value) for row, value in enumerate(values, start=1))


def _list_with_rows(file: Path) -> str | None:
    """Name of the list that holds the rows of a .json file that is one object around it; None for any other file."""
    if not ending(file).startswith(".json") or ending(file).startswith(_LINES):
        return None
    state = file.stat()
    return _searched(file, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=100_000)
def _searched(file: Path, *state: int) -> str | None:
    """See `_list_with_rows`; once for each state of the file, whose faults are found where its rows are read."""
    first: dict[str, dict[str, Any]] = {}
    try:
        with _opened(file, _COMPRESSION[ending(file).removeprefix(".json")]) as handle:
            _skip_blank(handle)
            if handle.peek(1)[:1] != b"{":
                return None
            with io.TextIOWrapper(handle, encoding="utf-8") as stream:
                text = _JsonText(stream, "")
                for name, value, is_element in _members(text):
                    if is_element and isinstance(value, dict):
                        first.setdefault(name, value)
                    if len(first) > 1 or (name in _QUESTIONS and isinstance(value, str) and not is_element):
                        return None
                if text.mark():
                    return None
    except (OSError, UnicodeDecodeError, pa.ArrowException, _FormatError):
        return None
    return next((name for name, row in first.items() if not is_turn(row)), None)


def is_turn(value: Mapping[str, Any]) -> bool:
    """True for a turn of a conversation."""
    return "role" in value or {"from", "value"} <= value.keys()


def _skip_blank(handle: io.BufferedReader) -> int:
    """Skip a byte order mark and white space; returns the number of line ends in it."""
    if handle.peek(3)[:3] == codecs.BOM_UTF8:
        handle.read(3)
    num_lines = 0
    while handle.peek(1)[:1].isspace():
        num_lines += handle.read(1) == b"\n"
    return num_lines


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class _JsonText:
    """Text of a JSON file behind a window, which moves on and grows while it ends inside of a value."""

    def __init__(self, stream: io.TextIOWrapper, start: str) -> None:
        self._stream, self._text, self._at = stream, start, 0
        self._decoder = json.JSONDecoder()

    def mark(self) -> str:
        """Pass white space; returns the next character, which is not passed, or an empty text at the end."""
        while True:
            while self._text[self._at : self._at + 1].isspace():
                self._at += 1
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Pass one character."""
        self._at += 1

    def value(self) -> Any:
        """Pass a value.

        Raises:
            ValueError: There is none.
            RecursionError: It is nested too deeply.
        """
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if len(self._text) - self._at > MAX_LINE_BYTES or not self._grow():
                    raise
            else:
                if end + 2 < len(self._text) or not self._grow():  # a number may go on: 1, 1e+5
                    self._at = end
                    return value

    def _grow(self) -> bool:
        if more := self._stream.read(max(len(self._text) - self._at, _CHUNK)):
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)


def _array(text: _JsonText, *, is_alone: bool = False) -> Iterator[Any]:
    """Elements of a JSON array; a comma after the last one is accepted. If it `is_alone`, no text may follow it."""
    number = 0
    if text.mark():
        text.skip()
    while (mark := text.mark()) and mark != "]":
        number += 1
        yield _row(text, number)
        if text.mark() == ",":
            text.skip()
        elif text.mark() not in ("]", ""):
            raise _FormatError(f"{_NO_JSON}: there is no comma after row {number}. {_AS_LINES}")
    if not mark:
        raise _FormatError(f"{_NO_JSON}: the array does not end, so the file is cut off after row {number}")
    text.skip()
    if is_alone and text.mark():
        raise _FormatError(f"{_NO_JSON}: there is text after the array. {_AS_LINES}")


def _texts(text: _JsonText) -> Iterator[Any]:
    """Values of JSON texts one after the other."""
    for number in itertools.count(1):
        if not text.mark():
            return
        yield _row(text, number)


def _row(text: _JsonText, number: int) -> Any:
    try:
        return text.value()
    except (ValueError, RecursionError) as error:
        raise _FormatError(f"{_NO_JSON}: row {number} is no JSON: {error}. {_AS_LINES}") from None


def _members(text: _JsonText) -> Iterator[tuple[str, Any, bool]]:
    """Name and value of the members of a JSON object; a list gives each of its elements, marked by True, one by one."""
    mark = text.mark()
    for number in itertools.count(1):
        if mark not in ("{", ","):
            break
        text.skip()
        if (mark := text.mark()) == "}":
            break
        name = _row(text, number)
        if not isinstance(name, str) or text.mark() != ":":
            raise _FormatError(f"{_NO_JSON}: member {number} of its object has no name")
        text.skip()
        if text.mark() == "[":
            yield from ((name, element, True) for element in _array(text))
        else:
            yield name, _row(text, number), False
        mark = text.mark()
    if mark != "}":
        raise _FormatError(f"{_NO_JSON}: its object does not end")
    text.skip()


def _parquet_rows(path: Path, columns: Container[str] | None) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        # Without any of the columns all are read, so that the rows are counted as bad ones.
        for batch in file.iter_batches(BATCH_ROWS, columns=names or None):
            yield from table_rows(batch)


def _cells(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Python values of a column, lists and structs included; a text that is not UTF-8 is bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
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
