"""Recognition of the format of a trace file by its first rows, and the message for a shape that is not known."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cotpress.answers import Extractor
from cotpress.data.columns import MISSING, Place
from cotpress.data.config import FileFormat
from cotpress.data.conversion import Reading
from cotpress.data.files import is_turn
from cotpress.data.formats import FIELDS, FORMATS, LONG, Row, tagged_columns
from cotpress.data.rendered import without_end
from cotpress.data.thinking import has_tags
from cotpress.errors import ConfigError, DataError

_GUESSES = {
    "question": ("question", "problem", "prompt", "instruction", "query", "input", "task", "user"),
    "thinking": ("thinking", "reasoning", "thought", "trajectory", "trajectories", "cot", "rationale", "chain",
                 "explanation", "solution"),
    "response": ("response", "completion", "generation", "attempt", "output", "reply", "result", "text", "content",
                 "solution"),
    "answer": ("answer", "gold", "truth", "target", "label", "final"),
}  # fmt: skip
"""Words in names of columns, the likeliest first."""
_COMMON = {*FIELDS, *(word for words in _GUESSES.values() for word in words)}
"""Names that columns of any file may have."""
_SPEAKERS = ("role", "from", "speaker", "author", "sender", "name", "type")
"""Keys of a turn that hold no text of it."""
_KINDS = ("_type", "_source")
"""Ends of names of columns that hold no text to read, such as OpenR1's `question_type`."""
_ASKING = ("user", "human")
_UNQUOTED = re.compile(r"[\w./+|\-\[\] ]+|[\w.]+\[\w+=\w+\]\.\w+")
"""Values that Hydra reads without quotes."""
_MOST_NAMED = 30
"""Most columns of a file that a message names."""


def recognised(
    rows: Sequence[Row],
    place: str,
    *,
    format_: FileFormat,
    given: Mapping[str, str],
    generations: str,
    extractor: Extractor,
    group: str,
) -> Reading:
    """The way in which a file is read.

    Args:
        rows: Its first rows.
        place: Name of the file, for messages.
        format_: Setting; `auto` takes the first format that fits at least half as many rows as any other does.
        given: Settings `data.columns`, without those that are null.
        generations: Setting.
        extractor: Setting.
        group: Group of the settings, for messages.

    Raises:
        ConfigError: No row has a column that is a setting.
        DataError: No format fits, or not the one that is a setting; or there is nothing to choose generations by.
    """
    for column, text in given.items():
        if rows and all(Place(text).value(row) is MISSING for row in rows):
            raise ConfigError(
                f"{group}.columns.{column}: got '{text}', which none of the first {len(rows)} rows of {place} has. "
                f"It has: {_described(rows)}"
            )
    if format_ is FileFormat.auto:
        names = fitting(rows)
    else:
        names = [format_] if any(map(FORMATS[format_].has_columns, rows)) else []
    name, *others = names or [FileFormat.cotpress if format_ is FileFormat.auto else format_]
    own = FORMATS[name]
    also = [n for n in others if n is not FileFormat.tagged and not (own.turns and own.turns == FORMATS[n].turns)]
    places = _places(name, rows) | {column: Place(text) for column, text in given.items()}
    reading = Reading(
        name=name, format=own, places=places, given=given, generations=generations, extractor=extractor,
        has_lists=any(isinstance(row.get(column), list) for row in rows for column in ("thinking", "response")),
        used=list(_used(name, places, given, rows)), also=also,
        nearly=_nearly(rows, names, group) if format_ is FileFormat.auto else "",
        has_flags=any(_has_value(row, own.correct) for row in rows),
        has_ends=any(isinstance(own_text := row.get(c), str) and without_end(own_text) != own_text
                     for row in rows for c in ("thinking", "response")),
    )  # fmt: skip
    if reading.is_plain and any(all(column not in row for row in rows) for column in ("response", "answer")):
        names = []
    if rows and not names and not _is_enough(given, places, rows):
        raise DataError(_unknown(rows, place, name if format_ is not FileFormat.auto else None, places, group))
    answer = [places["answer"].text] if "answer" in places else []
    if generations == "shortest_correct" and rows and not any(_has_value(row, [*own.correct, *answer]) for row in rows):
        raise DataError(
            f"{group}.generations: got shortest_correct, but {place} has neither flags for correct generations nor "
            f"a gold answer. Fix: {group}.columns.answer=COLUMN, or {group}.generations=first"
        )
    return reading


def fitting(rows: Sequence[Row]) -> list[FileFormat]:
    """The formats that some rows may have, the one that is used first: each fits half as many as any other, or more."""
    fits = {known: sum(map(own.fits, rows)) for known, own in FORMATS.items() if own.automatic}
    best = max(fits.values())
    return [known for known, number in fits.items() if best and 2 * number >= best]


def told(reading: Reading, layout: str = "") -> str:
    """One line about a file that has not the standard columns: `read as openr1: 3 columns used (...)`.

    `layout` is the part of the file that holds its rows, if it does not consist of them.
    """
    name = "your own columns" if reading.given and reading.name is FileFormat.cotpress else reading.name.value
    noun = "column" if len(reading.used) == 1 else "columns"
    line = f"read as {name}: {len(reading.used)} {noun} used ({', '.join(map(_printable, reading.used))})"
    line += f" of the rows in its {layout}" if layout else ""
    if reading.nearly:
        line += f"; one column has another name than in a known format: {reading.nearly} reads it so"
    if not reading.also:
        return line
    others = ", ".join(name.value for name in reading.also)
    return f"{line}; it also looks like {others} (data.format=NAME reads it so)"


def warning(reading: Reading, group: str) -> str:
    """A line on right generations that are chosen without flags of correctness; empty if there is nothing to say."""
    if reading.generations != "shortest_correct" or reading.has_flags:
        return ""
    fix = f"{reading.nearly} reads those of a known format" if reading.nearly else f"{group}.format=NAME may know some"
    return (
        f"{group}.generations=shortest_correct: no column with flags of correctness is known in this file, so a "
        f"generation counts as correct if it states the gold answer ({group}.columns.answer). If the file has "
        f"flags, {fix}"
    )


def _places(name: FileFormat, rows: Sequence[Row]) -> dict[str, Place]:
    """The places of a format; those of texts with tags are the column that has most of them."""
    columns = dict(FORMATS[name].columns)
    if name is FileFormat.tagged:
        found = [column for row in rows for column in tagged_columns(row)]
        columns["response"] = max(dict.fromkeys(found), key=found.count, default="response")
        columns["answer"] = "|".join(c for c in columns["answer"].split("|") if c != columns["response"])
    return {column: Place(text) for column, text in columns.items()}


def _used(
    name: FileFormat, places: Mapping[str, Place], given: Mapping[str, str], rows: Sequence[Row]
) -> Iterator[str]:
    """Columns that texts, ids and flags are read from, each once."""
    own = FORMATS[name]
    columns = [places[field].text for field in FIELDS if field in places]
    ordered = map(Place, (*own.turns, *columns, *own.complete, *own.correct, *own.checked))
    yield from dict.fromkeys(column for place in ordered for row in rows for column in place.columns(row))


def _is_enough(given: Mapping[str, str], places: Mapping[str, Place], rows: Sequence[Row]) -> bool:
    """True if settings name columns and some row has a question and a text that may hold a thinking."""
    return bool(given) and all(
        any(places[name].value(row) is not MISSING for name in names if name in places for row in rows)
        for names in (("question",), ("thinking", "response"))
    )


def _has_value(row: Row, places: Iterable[str]) -> bool:
    """True if one of the places of a row has a value."""
    return any(Place(text).value(row) not in (MISSING, None, "") for text in places)


def _nearly(rows: Sequence[Row], fitting: Sequence[FileFormat], group: str) -> str:
    """Settings that read the rows as the first format of which one column has another name; empty without.

    Its other marks are there, or its flags, and one of them has a name that no other kind of file has.
    """
    for name, own in ((n, f) for n, f in FORMATS.items() if f.automatic and n not in fitting):
        missing = [mark for mark in own.marks if not any(mark in row for row in rows)]
        places = {text.partition("[")[0]: column for column, text in own.columns.items()}
        there = {mark for mark in (*own.marks, *own.complete, *own.correct) if any(mark in row for row in rows)}
        if len(missing) != 1 or missing[0] not in places or there <= _COMMON:
            continue
        column = places[missing[0]]
        taken = {used for text in own.columns.values() for row in rows for used in Place(text).columns(row)} | there
        taken |= {mark for other in FORMATS.values() for mark in other.marks} - _COMMON  # such as Gemini's in s1K-1.1
        guess = _guessed([{k: v for k, v in row.items() if k not in taken} for row in rows], [column]).get(column)
        if guess is not None:
            settings = (f"{group}.format={name.value}", f"{group}.columns.{column}={_quoted(guess)}")
            return " ".join(map(shlex.quote, settings))
    return ""


def _unknown(rows: Sequence[Row], place: str, named: FileFormat | None, places: Mapping[str, Place], group: str) -> str:
    """Message for a shape that is not known: what is missing, what there is, and settings to try."""
    missing = [
        name for name in FIELDS if name != "id"
        and (name not in places or not any(_is_readable(places[name].value(row)) for row in rows))
    ]  # fmt: skip
    lists = _lists(rows) if "question" in missing else []
    guesses = _guessed([{k: v for k, v in row.items() if k not in lists} for row in rows], missing)
    settings = [f"{group}.columns.{name}={_quoted(place)}" for name, place in guesses.items()]
    settings = settings or [f"{group}.columns.thinking=thinking"]  # what is missing is then empty
    fix = (_nearly(rows, [], group) if named is None else "") or " ".join(map(shlex.quote, settings))
    shape = "none of the known shapes" if named is None else f"not the shape of {group}.format={named.value}"
    names = ", ".join(name.value for name in FORMATS)
    either = " or ".join(map(_printable, lists))
    around = f"If its rows are those in {either}, save that list as a .json file. " if lists else ""
    return (
        f"{group}.path: {place} has {shape}. Missing: {', '.join(missing)}. It has: {_described(rows)}. {around}"
        f"Fix, for instance: {fix}. Known: {group}.format={names}"
    )


def _is_readable(value: Any) -> bool:
    """True for a value of a row that is there and is no object."""
    return value is not MISSING and not isinstance(value, Mapping)


def _quoted(place: str) -> str:
    """A place as the value of a setting, in quotes where Hydra needs them."""
    if _UNQUOTED.fullmatch(place):
        return place
    escaped = place.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _lists(rows: Sequence[Row]) -> list[str]:
    """Lists of objects in a file of a single row, which may be an object around lists of rows; no conversations."""
    if len(rows) != 1:
        return []
    lists = [(name, value) for name, value in rows[0].items() if isinstance(value, list) and value]
    return [name for name, (first, *_) in lists if isinstance(first, Mapping) and not is_turn(first)]


def _guessed(rows: Sequence[Row], missing: Sequence[str]) -> dict[str, str]:
    """The likeliest place of each missing column by its name and type, none twice; `COLUMN` where there is none.

    A text with thinking tags is the response, which then needs no thinking. The answer is guessed by its name alone.
    """
    texts = {place: text for row in reversed(rows) for place, text in _texts(row)}
    free = {place: text for place, text in texts.items() if not place.lower().endswith(_KINDS)}
    talks = {place.partition("[")[0] for place in free if "[-1]." in place}
    asked = [place for place in free if place.partition("[")[0] in talks]
    guesses: dict[str, str] = {}
    tagged = [place for place, text in free.items() if has_tags(text)]
    if tagged and "response" in missing:
        free.pop(tagged[0])
    for name in missing:
        words = _GUESSES[name]
        ranked = [
            (rank, "." in place, place) for place in free for rank, word in enumerate(words) if word in place.lower()
        ]
        if name == "response" and tagged:
            guesses[name] = tagged[0]
        elif name == "thinking" and tagged:
            continue
        elif ranked:
            guesses[name] = min(ranked)[-1]
        elif name == "question":
            guesses[name] = next((place for place in free if place in asked), next(iter(free), "COLUMN"))
        elif name == "thinking":
            guesses[name] = max(free, key=lambda place: len(free[place]), default="COLUMN")
        free.pop(guesses.get(name, ""), None)
    if guesses.keys() >= {"thinking"} and "response" in missing and not {"response", "answer"} & guesses.keys():
        spoken = next((place for place, text in free.items() if place.lower() == "answer" and LONG.match(text)), "")
        guesses |= {"response": spoken} if spoken else {}
    return guesses


def _texts(row: Row) -> Iterator[tuple[str, str]]:
    """Places of texts and of lists of texts in a row, nested ones one level deep, each with its first text.

    Of a list of turns, which name their speakers, these are the last question and its answer.
    """
    for name, value in row.items():
        parts = [(name, value)]
        if isinstance(value, Mapping):
            parts = [(f"{name}.{key}", part) for key, part in value.items()]
        elif isinstance(value, list) and value:
            parts = [(name, value[0])]
            if isinstance(value[0], Mapping):
                is_talk = len(value) > 1 and any(key in value[0] for key in _SPEAKERS)
                turns = [_last_asked(value), ("-1", value[-1])] if is_talk else [("0", value[0])]
                parts = [
                    (f"{name}[{at}].{key}", part)
                    for at, turn in turns if isinstance(turn, Mapping)
                    for key, part in turn.items() if not is_talk or key not in _SPEAKERS
                ]  # fmt: skip
        yield from ((place, part) for place, part in parts if isinstance(part, str))


def _last_asked(turns: Sequence[Any]) -> tuple[str, Any]:
    """Step of a place to the turn of the user that the last turn answers, and this turn; without one the last but one.

    Where another turn stands between them, it is the first turn of the user.
    """
    for turn in (turns[-2], *turns):
        for key in _SPEAKERS if isinstance(turn, Mapping) else ():
            if turn.get(key) in _ASKING:
                return "-2" if turn is turns[-2] else f"{key}={turn[key]}", turn
    return "-2", turns[-2]


def _described(rows: Sequence[Row]) -> str:
    """Columns of the rows with their types: `problem (text), meta (keys a, b), votes (list of true or false)`."""
    columns: dict[str, Any] = {}
    for row in rows:
        for name, value in row.items():
            if columns.get(name) is None:
                columns[name] = value
    parts = [f"{_printable(name)} ({_type(value)})" for name, value in columns.items()]
    more = f", and {len(parts) - _MOST_NAMED} more" if len(parts) > _MOST_NAMED else ""
    return ", ".join(parts[:_MOST_NAMED]) + more or "no columns"


def _type(value: Any, depth: int = 0) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "number"
        case Mapping():
            return f"keys {', '.join(map(_printable, list(value)[:_MOST_NAMED]))}" if value else "no keys"
        case list():
            return f"list of {_type(value[0], depth + 1)}" if value and not depth else "list"
    return type(value).__name__


def _printable(name: object) -> str:
    return str(name).encode("utf-8", "backslashreplace").decode()[:60]
