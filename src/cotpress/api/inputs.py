"""Texts and rows of the caller as traces, with the rules of the data stage for their texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from cotpress.data.rows import BadRow, Field, field_value, kind_of
from cotpress.data.thinking import without_tags
from cotpress.errors import ConfigError, DataError
from cotpress.records import Trace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row: TypeAlias = "str | Mapping[str, Any] | DataclassInstance"
"""A text, or a row with `thinking` and perhaps `question`, `response`, `answer` and `id`."""
Words: TypeAlias = str | Iterable[str] | None
"""A text that belongs to all given texts, or one for each."""

_FIELDS = (
    Field(name="id", required=False, optional=True, is_short=True),
    Field(name="question", required=False, optional=True),
    Field(name="thinking", required=True),
    Field(name="response", required=False, optional=True, is_short=True),
    Field(name="answer", required=False, optional=True, is_short=True),
)


def is_row(data: object) -> bool:
    """True for one text or row, False for several."""
    return isinstance(data, str | bytes | Mapping) or dataclasses.is_dataclass(data)


def place(number: int, *, alone: bool) -> str:
    """Name a row in a message."""
    return "the row" if alone else f"rows[{number}]"


def traces_of(data: Row | Iterable[Row], question: Words, response: Words, answer: Words) -> list[Trace]:
    """Return the traces of one text or row, or of several.

    `question`, `response` and `answer` belong to texts; a text without a `response` has the `answer` in its place.
    A row without an `id` is `row-1`, `row-2`, ... by its place, as in files.

    Raises:
        ConfigError: There are not as many questions, responses or answers as texts, or rows have some of their own.
        DataError: A row has no usable text.
    """
    alone = is_row(data)
    rows: list[Any] = [data] if alone else _several(data)
    given = {"question": question, "answer": answer, "response": answer if response is None else response}
    beside = {
        name: _for_each(name, words, len(rows), alone=alone) for name, words in given.items() if words is not None
    }
    traces = []
    for number, row in enumerate(rows):
        where = place(number, alone=alone)
        if beside and not isinstance(row, str):
            raise ConfigError(
                f"{next(iter(beside))}: got one for rows, but {where} is no plain text. Fix: the columns question, "
                "response and answer of the rows"
            )
        try:
            values = _values(row) if not beside else {"thinking": row} | {name: beside[name][number] for name in beside}
            traces.append(_trace(values, number))
        except BadRow as bad:
            where += f", {bad.field}" if bad.field else ""
            raise DataError(f"{where}: {bad.reason}. Got: {bad.got}. Allowed: {bad.allowed}") from None
    return traces


def _several(data: Any) -> list[Any]:
    is_table = hasattr(data, "iterrows")  # of pandas; its elements are the names of its columns
    if is_table or not isinstance(data, Iterable):
        fix = ". Fix: data.to_dict('records')" if is_table else ""
        raise DataError(
            f"rows: got {kind_of(data)}, allowed: a text, a row (a mapping or dataclass with `thinking`), or several, "
            f"such as a list or a datasets.Dataset{fix}"
        )
    return list(data)


def _for_each(name: str, words: Any, number: int, *, alone: bool) -> list[Any]:
    """One text for each of `number` rows; a value that is no text is refused with its row."""
    if isinstance(words, str) or not isinstance(words, Iterable):
        return [words] * number
    texts = list(words)
    if alone or len(texts) != number:
        texts_of = "one text" if alone else f"{number} texts"
        raise ConfigError(f"{name}: got {len(texts)} of them for {texts_of}, allowed: one for all, or one for each")
    return texts


def _values(row: Any) -> Mapping[str, Any]:
    """Values of a row by column."""
    if isinstance(row, str):
        return {"thinking": row}
    if isinstance(row, Mapping):
        return row
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
    raise BadRow("no row", got=kind_of(row), allowed="a text, a mapping, or a dataclass")


def _trace(values: Mapping[str, Any], number: int) -> Trace:
    present = {field.name: values[field.name] for field in _FIELDS if field.name in values}
    if "thinking" not in present:
        columns = ", ".join(sorted(map(str, values))) or "none"
        raise BadRow(
            "missing column 'thinking'",
            got=f"the columns {columns}",
            allowed="rows with a text in that column, or plain texts, such as data['COLUMN']",
        )
    if isinstance(present["thinking"], list):
        columns = "data['thinking'], with question=data['question'] and so on"
        raise BadRow("several texts in 'thinking'", got="a list", allowed=f"one text; of a batch its texts, {columns}")
    (row,) = without_tags(present)
    texts = {field.name: field_value(row, field) for field in _FIELDS}
    return Trace(**{**texts, "id": texts["id"] or f"row-{number + 1}"})
