"""Checks every field of the rows of a source; bad rows are counted or, if strict, an error.

A row is usable if it has all fields as Unicode strings of at most `MAX_TEXT_BYTES`, the required ones not blank. Of
rows with one `id` the later ones are dropped, or get ids of their own. Numbers and truth values in the fields that may
be short, such as `id` and `answer`, are read as text; null in a field that may be blank is empty. Other columns are
ignored. An optional field is read as empty if its value is not text. A field can also hold a list, whose texts are
checked as well.
"""

import decimal
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from cotpress.data import files
from cotpress.data.config import Duplicates
from cotpress.data.files import Raw
from cotpress.errors import DataError, did_you_mean

_NUM_SEEN = 100
"""Rows whose columns are named if none is usable."""
MAX_TEXT_BYTES = 1_000_000
"""Longest text of a row, in bytes of UTF-8: a tokenizer needs 0.3 to 0.5 GB of memory for each million."""


class BadRow(Exception):  # noqa: N818 (a row that is counted, no error unless `strict`)
    """A row is unusable for a `reason`; `got` and `allowed` complete the message of a strict reader.

    Its reason counts rows, so it names no value of the row.
    """

    def __init__(self, reason: str, *, field: str | None = None, got: str, allowed: str) -> None:
        super().__init__(reason)
        self.reason, self.field, self.got, self.allowed = reason, field, got, allowed


GENERATION = "\0generation"
"""Column of a converted row with the end of its id, where a raw row makes several."""
MARKED_WRONG, UNUSED = "marked_wrong", "unused_generations"
"""Numbers of generations: used although their file marks them as wrong, and not used."""
TALLY = "\0tally"
"""Column of a converted row with numbers that are added up over the rows that are used, by name."""
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
    Field(name="id", required=False, optional=True, is_short=True),
    Field(
        name="question",
        required=True,
        without="call the column with the questions 'question' in the file",
    ),
    Field(
        name="answer",
        required=True,
        is_short=True,
        without="questions that have none: benchmark.unanswerable=true; answers in another column: call it 'answer'",
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


class RawRows(Protocol):
    """A source of rows as they are stored; its text names it in messages."""

    @property
    def note(self) -> str:
        """A sentence on the parts of the source that are read and left out; empty if there is nothing to say."""

    @property
    def layout(self) -> str:
        """The parts of its files that hold the rows; empty if they consist of them."""

    def rows(self, columns: Container[str] | None = None) -> Iterator[Raw]:
        """All rows; with `columns` other columns may be missing."""


class RowReader:
    """Reads the usable rows of a source.

    Args:
        source: Where the rows come from.
        fields: Columns to read; one of them is `id`.
        strict: Raise an error at the first bad row.
        key: Setting that names the source, for messages.
        unnamed: Id of a row without one, by its number.
        duplicates: Treatment of an id that an earlier row has.
        convert: Makes the rows that are checked from the raw ones.
        columns: Columns that `convert` uses; None: all of them are read.

    Attributes:
        dropped: Number of dropped rows by reason; complete once the rows are exhausted.
        emptied: Number of rows, by field, whose value was not text and is read as empty.
        numbered: Number of rows, by reason, whose id was made unique.
        tally: Sums of the numbers in the column `TALLY` of the usable rows.
        first: Place of the first dropped row by reason, e.g. `line 3`.
    """

    def __init__(
        self,
        source: RawRows,
        fields: Sequence[Field],
        *,
        strict: bool,
        key: str,
        unnamed: Callable[[int], str] = "row-{}".format,
        duplicates: Duplicates = Duplicates.drop,
        convert: Convert | None = None,
        columns: Container[str] | None = None,
    ) -> None:
        self.source, self._fields, self._strict, self._key = source, fields, strict, key
        self._unnamed, self._duplicates, self._convert, self._read = unnamed, duplicates, convert, columns
        self.dropped: Counter[str] = Counter()
        self.emptied: Counter[str] = Counter()
        self.numbered: Counter[str] = Counter()
        self.tally: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self._advice: dict[str, str] = {}
        """The end of the message of the first dropped row by reason: got and allowed."""
        self._place = ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Usable rows in order: a string or a list per field.

        Raises:
            DataError: The source cannot be read or has no usable row; or a row is bad and `strict` is set.
        """
        for count in (self.dropped, self.emptied, self.numbered, self.tally, self.first, self._advice):
            count.clear()
        ids = _Ids(self._duplicates)
        for number, values in self._converted():
            try:
                if isinstance(values, BadRow):
                    raise values
                row = {field.name: self._value(values, field) for field in self._fields}
                row["id"] = f"{row['id'] or self._unnamed(number)}{values.get(GENERATION, '')}"
                unique = ids.unique(row)
            except BadRow as bad:
                self.drop(bad.reason, field=bad.field, got=bad.got, allowed=bad.allowed)
            else:
                self.numbered["repeated id"] += unique != row["id"]
                self.tally.update(values.get(TALLY, {}))
                yield {**row, "id": unique}
        if not ids:
            raise DataError(self._nothing_usable(self.dropped.total()))

    @property
    def told(self) -> str:
        """A line on the place of the rows in the source; empty if it consists of them."""
        return f"read as the rows in its {self.source.layout}" if self.source.layout else ""

    def head(self, num_rows: int) -> list[Mapping[str, Any]]:
        """The first raw rows with all their columns, at most `num_rows`; those that cannot be parsed are left out.

        Raises:
            DataError: The source cannot be read.
        """
        return list(itertools.islice(self._parsed_rows(), num_rows))

    def _parsed_rows(self) -> Iterator[Mapping[str, Any]]:
        for raw in self.source.rows():
            with suppress(BadRow):
                yield _parsed(raw.content)

    def _converted(self) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
        """Number of the raw row and values of every row to check, or the reason why it is bad."""
        columns = {name for field in self._fields for name in _columns(field)} if self._convert is None else self._read
        for raw in self.source.rows(columns):
            self._place = raw.place
            num_made = 0
            try:
                values = _parsed(raw.content)
                for made in (values,) if self._convert is None else self._convert(values):
                    num_made += 1
                    yield raw.number, made
                if not num_made:
                    raise BadRow("nothing to read in the row", got="no text", allowed="at least one trace")
            except BadRow as bad:
                yield raw.number, bad

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
                f"{self.source}, {place}: {reason}. Got: {got}. Allowed: {allowed}. "
                f"Fix: correct the row, or drop and count such rows with {group}.strict=false."
            ) from None
        self.dropped[reason] += 1
        self.first.setdefault(reason, self._place)
        self._advice.setdefault(reason, f"Got: {got}. Allowed: {allowed}")

    def _value(self, values: Mapping[str, Any], field: Field) -> Any:
        try:
            return field_value(values, field)
        except BadRow:
            if self._strict or not field.optional:
                raise
            self.emptied[field.name] += 1
            return ""

    def _nothing_usable(self, num_rows: int) -> str:
        fields = ", ".join(" or ".join(_columns(field)) for field in self._fields)
        if not num_rows:
            return f"{self._key}: {self.source} is empty. Allowed: rows with the fields {fields}"
        found = reasons(self.dropped, self.first)
        present = {_printable(name) for row in self.head(_NUM_SEEN) for name in row}
        message = f"{self._key}: {self.source} has no usable row among {num_rows} ({found})."
        for field in self._fields:
            wanted = " or ".join(_columns(field))
            if self.dropped[f"missing field '{wanted}'"] == num_rows:
                fix = f" Fix, {field.without}" if field.without else ""
                return f"{message} It has no column '{wanted}'.{did_you_mean(field.name, present)}{fix}"
        return f"{message} {self._advice[self.dropped.most_common(1)[0][0]]}"


class _Ids:
    """Ids of the rows so far; false while there is none."""

    def __init__(self, duplicates: Duplicates) -> None:
        self._duplicates = duplicates
        self._numbers: dict[str, int] = {}
        """The last number that was added to an id; 1 for none."""
        self._rows: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def unique(self, row: Mapping[str, Any]) -> str:
        """The id of a row; of one whose id an earlier row has, with a number: `ID#2`.

        Raises:
            BadRow: The row, or with `Duplicates.drop` its id, has been there.
        """
        id_: str = row["id"]
        own = id_
        if self._duplicates is Duplicates.number:
            # The hash of a row takes a hundredth of its memory.
            digest = hashlib.blake2b("\0".join(map(str, row.values())).encode(), digest_size=16).digest()
            if digest in self._rows:
                raise BadRow("repeated row", field="id", got=repr(id_)[:60], allowed="a row that no earlier one equals")
            self._rows.add(digest)
            while own in self._numbers:
                self._numbers[id_] += 1
                own = f"{id_}#{self._numbers[id_]}"
        elif id_ in self._numbers:
            raise BadRow("duplicate id", field="id", got=repr(id_)[:60], allowed="an id that no earlier row has")
        self._numbers[own] = 1
        return own


def field_value(values: Mapping[str, Any], field: Field) -> Any:
    """Return the value of a field in a row, a string or a list.

    Raises:
        BadRow: The column is missing, or its value is not allowed.
    """
    name = next((column for column in _columns(field) if column in values), None)
    if field.optional and (name is None or _is_null(values[name])):
        return ""
    if name is None:
        kind = "a list" if field.is_list else "text"
        present = f"the fields {', '.join(sorted(map(_printable, values))) or '(none)'}"
        wanted = " or ".join(_columns(field))
        raise BadRow(f"missing field '{wanted}'", field=field.name, got=present, allowed=kind)
    return _checked(values[name], name, field)


def _columns(field: Field) -> Sequence[str]:
    return field.columns or (field.name,)


def _printable(name: object) -> str:
    """A column name for messages, which cannot show lone surrogates."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _parsed(content: Any) -> Mapping[str, Any]:
    """Values by column of a line of JSON, or of a row that is parsed already."""
    allowed = "one JSON object per line"
    if isinstance(content, bytes):
        if len(content) > files.MAX_LINE_BYTES:
            raise BadRow("line too long", got=f"over {files.MAX_LINE_BYTES:,} bytes", allowed="a shorter line")
        try:
            content = json.loads(_decoded(content))
        except (ValueError, RecursionError) as error:
            raise BadRow("invalid JSON", got=str(error), allowed=allowed) from None
    if not isinstance(content, dict):
        raise BadRow("not a JSON object", got=kind_of(content), allowed=allowed)
    return content


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
        value = short_text(value)
    if isinstance(value, bytes) and not field.is_list:
        value = _decoded(value, name)
    if not isinstance(value, list if field.is_list else str):
        kind = "a list" if field.is_list else "a string or a number" if field.is_short else "a string"
        raise bad(f"wrong type of '{name}'", kind_of(value), kind)
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


def short_text(value: Any) -> Any:
    """A number or truth value as JSON writes it, a whole one without a decimal point; other values as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return format(value.to_integral_value() if value == value.to_integral_value() else value.normalize(), "f")
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return str(value) if isinstance(value, int) else value


def kind_of(value: object) -> str:
    """Name of a value's type in its file format."""
    if isinstance(value, pa.Scalar):
        return str(value.type)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else type(value).__name__)
