"""Conversion of raw rows of any format into rows with the columns `id, question, thinking, response, answer`.

A row with a list of texts has several generations. Their ids are `ID/0`, `ID/1`, ..., also where only one is used, and
the question decides whether its traces are held out for validation, so that no model is trained on one generation and
validated on another. A generation is complete if the marks of the file say nothing else, its thinking is closed and
neither nested nor empty.

A conversation is used if it is one exchange: a question and an answer, after any system turns, which are not used (the
system text of a student is a setting of its model).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cotpress.answers import Extractor, judge, package_versions
from cotpress.data.columns import MISSING, Place
from cotpress.data.config import FileFormat
from cotpress.data.formats import Format, Row, flag, turns_of
from cotpress.data.rendered import rendered_turns, without_end
from cotpress.data.rows import GENERATION, MARKED_WRONG, TALLY, TRACE_FIELDS, UNUSED, BadRow, Field, kind_of
from cotpress.data.statement import stated
from cotpress.data.thinking import apart, check_question, has_tags
from cotpress.store.source import Root

_ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant",
    "chatgpt": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The way in which the rows of one file are read.

    Attributes:
        places: Place of each standard column.
        given: Places that are settings, by column, in place of those of the format.
        generations: Setting of this name.
        extractor: Setting of this name.
        has_lists: True if rows of the file have several generations in the standard columns.
        used: Columns of the file that texts, ids and flags are read from.
        also: Other formats that fit.
        nearly: Settings that read it as a format of which one column has another name; empty without.
        has_ends: True if texts of a row end with tokens that end a turn, which are removed.
        has_flags: True if a row has a mark that its format knows for a right generation.
    """

    name: FileFormat
    format: Format
    places: Mapping[str, Place]
    given: Mapping[str, str]
    generations: str = "first"
    extractor: Extractor = Extractor.math
    has_lists: bool = False
    used: Sequence[str] = ()
    also: Sequence[FileFormat] = ()
    nearly: str = ""
    has_flags: bool = False
    has_ends: bool = False

    @property
    def is_plain(self) -> bool:
        """True if the file has the standard columns itself, and its rows need no choice."""
        chosen = bool(self.given) or self.generations == "shortest_correct" or self.has_lists or self.has_ends
        return self.name is FileFormat.cotpress and not chosen

    @property
    def fields(self) -> tuple[Field, ...]:
        """Fields to read; a row without an id is named by its number."""
        return tuple(replace(f, required=False, optional=True) if f.name == "id" else f for f in TRACE_FIELDS)

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the traces beside the content of the file, where it has not the standard columns."""
        chosen: dict[str, Any] = {} if self.generations == "first" else {"generations": self.generations}
        if self.generations == "shortest_correct":
            chosen["packages"] = package_versions()
            if self.extractor is not Extractor.math:
                chosen["extractor"] = self.extractor.value
        return {"read_as": self.name.value, "columns": dict(self.given), **chosen}

    @property
    def code(self) -> list[Root]:
        """Code that divides and judges texts, beside this module, where it is used."""
        used: list[Root] = [stated] if self.format.is_stated else []
        return [*used, judge] if self.generations == "shortest_correct" else used

    def rows(self, row: Row) -> Iterator[Mapping[str, Any] | BadRow]:
        """Rows in the standard columns, made from one raw row."""
        self.format.check(row)
        values = {name: value for name, place in self.places.items() if (value := place.value(row)) is not MISSING}
        if self.format.turns and not (
            {"question"} <= self.given.keys() and self.given.keys() & {"thinking", "response"}
        ):
            values = {**exchange(turns_of(row, self.format.turns)), **values}
        for names in (("question",), ("thinking", "response")):
            if not any(name in values for name in names):
                raise self._missing(names)
        values["question"] = _question(values["question"])
        check_question(values["question"])
        texts = _generations(values.get("thinking"), values.get("response"))
        common = {name: values.get(name) for name in ("id", "question", "answer")}
        if texts is None:
            yield common | self._one(row, values)
            return
        yield from (
            made if isinstance(made, BadRow) else common | made
            for made in self._several(row, texts, values.get("answer"))
        )

    def _missing(self, names: Sequence[str]) -> BadRow:
        """For a row that has no place of any of these columns."""
        places = [text for name in names if name in self.places for text in self.places[name].alternatives]
        return BadRow(f"missing field '{' or '.join(places)}'", field=names[0], got="no such place", allowed="text")

    def _one(self, row: Row, values: Row) -> dict[str, Any]:
        """Thinking and response of a row with one generation."""
        made = self._texts(values.get("thinking"), values.get("response"), values.get("answer"))
        if not all(flag(Place(place).value(row)) is not False for place in self.format.complete):
            raise _incomplete()
        if self.generations == "shortest_correct" and not self._is_correct(row, made, values.get("answer"), None, 1):
            raise _wrong()
        return made | {TALLY: {MARKED_WRONG: int(self._marked(row, None, 1) is False)}}

    def _several(self, row: Row, texts: Sequence[tuple[Any, Any]], answer: Any) -> Iterator[dict[str, Any] | BadRow]:
        """The chosen generations of a row."""
        if not texts:
            raise BadRow("no generation", got="an empty list", allowed="at least one text")
        complete: list[dict[str, Any]] = []
        for k, (thinking, response) in enumerate(texts):
            try:
                if any(_flags(row, place, k, len(texts)) is False for place in self.format.complete):
                    raise _incomplete()
                is_wrong = self._marked(row, k, len(texts)) is False
                made = self._texts(thinking, response, answer) | {
                    GENERATION: f"/{k}", TALLY: {MARKED_WRONG: int(is_wrong)},
                }  # fmt: skip
            except BadRow as bad:
                if self.generations == "all":
                    yield bad
                elif len(texts) == 1:
                    raise
            else:
                complete.append(made)
                if self.generations == "all":
                    yield made
                elif len(complete) == (1 if self.generations == "first" else _number(self.generations)):
                    break
        if self.generations == "all":
            return
        if not complete:
            raise BadRow(
                "no complete generation", got=f"{len(texts)} that are not finished or have no closed thinking",
                allowed="one with a closed thinking and without a flag against it",
            )  # fmt: skip
        if self.generations != "shortest_correct":
            complete[0][TALLY][UNUSED] = len(texts) - len(complete)
            yield from complete
            return
        correct = [m for m in complete if self._is_correct(row, m, answer, int(m[GENERATION][1:]), len(texts))]
        if not correct:
            raise _wrong()
        shortest = min(correct, key=lambda made: len(made["thinking"]))
        shortest[TALLY][UNUSED] = len(texts) - 1
        yield shortest

    def _texts(self, thinking: Any, response: Any, answer: Any) -> dict[str, Any]:
        """Thinking and response of a generation, without tags and without the end of a turn."""
        thinking, response = (without_end(t) if isinstance(t, str) else t for t in (thinking, response))
        is_alone = isinstance(thinking, str) and (response is None or response == "")
        if self.format.is_stated and is_alone and not has_tags(thinking):
            thought, rest = stated(thinking, "" if answer is None else str(answer))
        else:
            thought, rest = apart(thinking, response)
        if thought is None and isinstance(rest, str) and rest.strip():
            raise BadRow(
                "no thinking tags in the text", got=repr(rest[:60]),
                allowed="a thinking between tags, or in a column of its own (data.columns.thinking=COLUMN)",
            )  # fmt: skip
        if thought is None and not isinstance(rest, str | None):
            raise BadRow(
                "wrong type of 'response'", field="response", got=kind_of(rest), allowed="text with a thinking"
            )
        if thought is None or (isinstance(thought, str) and not thought.strip()):
            raise BadRow("empty thinking", field="thinking", got=repr(thinking)[:60], allowed="text that is not blank")
        return {"thinking": thought, "response": rest}

    def _marked(self, row: Row, k: int | None, num: int) -> bool | None:
        """The mark of a generation as right or wrong; None if it has none."""
        flags = [_flags(row, place, k, num) for place in self.format.correct]
        known = [is_right for is_right in flags if is_right is not None]
        return any(known) if known else None

    def _is_correct(self, row: Row, made: Row, answer: Any, k: int | None, num: int) -> bool:
        """True if the flags of a generation, or without any its comparison with the gold answer, say so."""
        if (is_right := self._marked(row, k, num)) is not None:
            return is_right
        gold = "" if answer is None else str(answer)
        if not gold.strip():
            raise BadRow(
                "no flag and no answer to choose a correct generation by", field="answer", got="none",
                allowed="a gold answer, or another choice: data.generations=first",
            )  # fmt: skip
        solution = (
            made["response"] if isinstance(made["response"], str) and made["response"].strip() else made["thinking"]
        )
        return judge(solution, gold, self.extractor).correct


@dataclass(frozen=True, slots=True)
class Readings:
    """The ways in which the rows of files in several formats are read: each row in the first one that fits it.

    Attributes:
        each: At least two, in the order of the files.
    """

    each: Sequence[Reading]

    @property
    def identity(self) -> dict[str, Any]:
        """As that of a `Reading`."""
        return {"read_as": [reading.identity for reading in self.each]}

    @property
    def code(self) -> list[Root]:
        """As that of a `Reading`."""
        return list(dict.fromkeys(root for reading in self.each for root in reading.code))

    @property
    def used(self) -> list[str]:
        """Columns that are used in any of the formats."""
        return list(dict.fromkeys(column for reading in self.each for column in reading.used))

    def rows(self, row: Row) -> Iterator[Mapping[str, Any] | BadRow]:
        """Rows in the standard columns, made from one raw row."""
        for fits in (Format.fits, Format.has_columns):
            for reading in self.each:
                if fits(reading.format, row):
                    return reading.rows(row)
        names = ", ".join(reading.name.value for reading in self.each)
        raise BadRow(
            "in none of these formats, so read such files by themselves",
            got=f"the columns {', '.join(map(str, row))}"[:200],
            allowed=names,
        )


def exchange(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Question, thinking and response of a conversation.

    Raises:
        BadRow: It is not one question with one answer.
    """
    roles = [_ROLES.get(str(turn.get("role") or turn.get("from")).lower(), "") for turn in turns]
    if "" in roles:
        raise _odd("a turn of another role", "user and assistant, or human and gpt, and system")
    spoken = [(role, turn) for role, turn in zip(roles, turns, strict=True) if role != "system"]
    if not any(role == "assistant" for role, _ in spoken):
        raise _odd("a conversation without an answer", "a question and its answer")
    if spoken[0][0] != "user":
        raise _odd("a conversation without a question", "a question and its answer")
    question, *answers = (turn for _, turn in spoken)
    is_channelled = all(turn.get("channel") for turn in answers)
    if [role for role, _ in spoken].count("user") > 1 or (len(answers) > 1 and not is_channelled):
        raise _odd("several exchanges", "one question and one answer; data.columns can name those of the last exchange")
    texts: dict[str, Any] = {"question": _content(question)[1]}
    if is_channelled:
        channels = {"analysis": "thinking", "final": "response"}
        for turn in answers:
            name = channels.get(str(turn["channel"]))
            if name is None or name in texts:
                raise _odd("channels other than one analysis and one final", "one message in each")
            texts[name] = _content(turn)[1]
        return texts
    own, content = _content(answers[0])
    values = [value for key in _THINKING_KEYS if isinstance(value := answers[0].get(key), str) and value.strip()]
    return texts | {"thinking": values[0] if values else own, "response": content}


def _content(turn: Mapping[str, Any]) -> tuple[str | None, Any]:
    """Thinking, if it is a part of the content, and text of a turn; contents may be lists of parts."""
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    if not isinstance(content, list):
        return None, content
    parts = [part if isinstance(part, Mapping) else {"text": part} for part in content]
    thinking, texts = list[str](), list[str]()
    for part in parts:
        is_thinking = part.get("type") in _THINKING_KEYS or bool(part.get("thinking"))
        keys = (*_THINKING_KEYS, "text") if is_thinking else ("text",)
        text = next((value for key in keys if isinstance(value := part.get(key), str) and value), part.get("text"))
        if not isinstance(text, str):
            raise _odd("a turn with more than text", "texts")
        (thinking if is_thinking else texts).append(text)
    return "\n".join(thinking) or None, "\n".join(texts)


def _question(value: Any) -> Any:
    """The question; of a list of messages, or of a rendered text that begins with one, the only one of the user."""
    if isinstance(value, str):
        value = rendered_turns(value) or value
    if not (isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value)):
        return value
    asked = [turn for turn in value if _ROLES.get(str(turn.get("role") or turn.get("from")).lower()) != "system"]
    if len(asked) != 1:
        raise _odd("several exchanges", "one question")
    return _content(asked[0])[1]


def _generations(thinking: Any, response: Any) -> list[tuple[Any, Any]] | None:
    """Thinking and response of each generation; None if the row is a single one."""
    lists = [value for value in (thinking, response) if isinstance(value, list)]
    if not lists:
        return None
    if any(isinstance(part, Mapping) for part in lists[0]):
        raise BadRow(
            "generations are objects", got="a list of objects",
            allowed="a list of texts; a place names the text of one generation, such as outputs[0].text",
        )  # fmt: skip
    num = len(lists[0])
    columns = [value if isinstance(value, list) else [value] * num for value in (thinking, response)]
    if any(len(column) != num for column in columns) or (
        len(lists) == 1 and num > 1 and None not in (thinking, response)
    ):
        raise BadRow("thinking and response differ in number", got=f"{num} and another number", allowed="as many")
    return list(zip(*columns, strict=True))


def _flags(row: Row, place: str, k: int | None, num: int) -> bool | None:
    """The mark of generation `k` of `num`; None if there is none."""
    value = Place(place).value(row)
    if isinstance(value, list):
        return flag(value[k or 0]) if len(value) == num else None
    return flag(value)


def _number(generations: str) -> float:
    return int(generations) if generations.isdigit() else float("inf")


def _incomplete() -> BadRow:
    return BadRow("generation is not complete", got="a flag against it", allowed="a finished generation")


def _wrong() -> BadRow:
    return BadRow("no correct generation", got="wrong answers", allowed="a generation with the right answer")


def _odd(reason: str, allowed: str) -> BadRow:
    return BadRow(reason, field="messages", got="another conversation", allowed=allowed)
