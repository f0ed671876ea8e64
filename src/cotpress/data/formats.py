"""Formats of published trace sets: the columns of each, and its recognition by the first rows of a file.

A new format is an entry in `FORMATS` and a member of `FileFormat`. Files of one's own need none: `data.columns` names
their columns, and takes the place of single columns of a format, too.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotpress.data.columns import MISSING, Place
from cotpress.data.config import FileFormat
from cotpress.data.rendered import ANSWERING, rendered_turns
from cotpress.data.rows import BadRow
from cotpress.data.statement import FINAL_LINE
from cotpress.data.thinking import has_tags

Row = Mapping[str, Any]
FIELDS = ("question", "thinking", "response", "answer", "id")
"""Standard columns that a place can be given for."""
NUM_HEAD = 20
"""Rows that a format is recognised by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of trace files.

    Attributes:
        source: The published sets that have it.
        columns: Place of each standard column. A list of texts as thinking or response is several generations.
        marks: Places that all its rows have.
        matches: Further condition on a row by which it is recognised.
        turns: Places of lists that make up a conversation, which question, thinking and response are read from.
        is_stated: True if texts have no tags and are divided at the sentence that states the answer.
        check: Raises a `BadRow` for a row that is no trace.
        checked: Places that `check` reads.
        complete: Places of marks that are true for a finished generation; all that a row has count.
        correct: Places of marks that are true for a right generation, of which one is enough.
        automatic: False if it is used only where it is named.
    """

    source: str
    columns: Mapping[str, str]
    marks: Sequence[str] = ()
    matches: Callable[[Row], bool] = lambda row: True
    turns: Sequence[str] = ()
    is_stated: bool = False
    check: Callable[[Row], None] = lambda row: None
    checked: Sequence[str] = ()
    complete: Sequence[str] = ()
    correct: Sequence[str] = ()
    automatic: bool = True

    def fits(self, row: Row) -> bool:
        """True if a row looks like one of this format."""
        return self.has_columns(row) and self.matches(row)

    def has_columns(self, row: Row) -> bool:
        """True if a row can be read in this format."""
        marked = all(Place(mark).value(row) is not MISSING for mark in self.marks)
        return marked and (not self.turns or bool(turns_of(row, self.turns)))


def _is_text(row: Row, *names: str) -> bool:
    return all(isinstance(row.get(name), str) for name in names)


def turns_of(row: Row, places: Sequence[str]) -> list[Mapping[str, Any]]:
    """The turns of the conversation of a row; empty if it has none."""
    lists = [value for place in places if (value := _listed(Place(place).value(row))) is not None]
    turns = [turn for part in lists for turn in part]
    return turns if len(lists) == len(places) and all(isinstance(turn, Mapping) for turn in turns) else []


def _listed(value: Any) -> list[Any] | None:
    """A conversation as a list of turns, where it is JSON as text, lists of its columns or a rendered text, too."""
    match value:
        case list():
            return value
        case Mapping() if any({*keys} <= value.keys() for keys in _OF_TURNS):
            columns = {key: cells for key, cells in value.items() if isinstance(cells, list)}
            if len({len(cells) for cells in columns.values()}) == 1:
                return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        case str() if value.lstrip()[:1] == "[" and value.rstrip()[-1:] == "]":
            try:
                turns = json.loads(value)
            except (ValueError, RecursionError):
                return rendered_turns(value) or None
            return turns if isinstance(turns, list) else None
        case str():
            return rendered_turns(value) or None
    return None


def _has_answer(row: Row) -> bool:
    """True if a text of a row is a conversation with an answer."""
    turns = turns_of(row, _RENDERED)
    return any(turn.get("role") in ANSWERING and turn.get("content") for turn in turns)


def _has_turns(places: Sequence[str], key: str, text: str = "") -> Callable[[Row], bool]:
    """A condition on a row: a turn of its conversation has the key, and one holds the text."""

    def matches(row: Row) -> bool:
        turns = turns_of(row, places)
        return any(turn.get(key) for turn in turns) and any(text in str(turn.get("value")) for turn in turns)

    return matches


def _right_only(row: Row) -> None:
    if flag(Place(_RIGHT).value(row)) is False:
        raise BadRow("wrong answer", field="accuracy", got="false", allowed="true")


def _one_exchange(row: Row) -> None:
    if row.get("history"):
        raise BadRow("several exchanges", field="history", got="earlier turns", allowed="an empty history")


def flag(value: Any) -> bool | None:
    """A mark of a generation as truth value; None if there is none."""
    if value is None or value is MISSING or (isinstance(value, str) and not value.strip()):
        return None
    return value.strip().lower() in _POSITIVE if isinstance(value, str) else bool(value)


_POSITIVE = {"true", "yes", "1", "correct", "stop", "stop_sequence", "eos", "eos_token", "end_turn"}
"""Marks as text for a right generation, and reasons for which servers end one (OpenAI, TGI, Anthropic)."""
_ID = "id|uuid"
_RIGHT = "accuracy|is_correct"
_ANSWER = "answer|expected_answer|ground_truth"
_QUESTIONS = "question|problem|prompt|instruction|query|input"
_OUTPUTS = (
    "response", "output", "completion", "generation", "generated_solution", "model_output", "solution", "answer",
    "text", "generations", "responses", "outputs", "completions",
)  # fmt: skip
"""Columns that may hold outputs with thinking tags."""
_CONVERSATIONS, _MESSAGES = ("conversations|conversation",), ("messages|conversation|conversations",)
_OF_TURNS = (("role", "content"), ("from", "value"))
"""Keys that a turn has, and a conversation whose turns are stored by columns."""
_PROMPTED = ("prompt", "completion")
_RENDERED = ("text|prompt|content|input|output|completion|response",)
LONG = re.compile(r"(\S+\s+){4}\S|.{60}", re.DOTALL)
"""A text that is no answer, as it has five words or, in a script without spaces, 60 characters."""
_OTHERS = {"thinking", "reasoning", "reasoning_content", "cot", "solution", "response", "completion", "output"}
"""Columns whose presence says that the thinking is not in `answer`."""
_S1K = {"question": "question", "answer": "solution", "id": _ID}


def _has_tagged_text(row: Row) -> bool:
    tagged = tagged_columns(row)
    return bool(tagged) and not {*Place(_QUESTIONS).columns(row)} <= {*tagged}


def tagged_columns(row: Row) -> list[str]:
    """Columns of a row whose text, or one of whose texts, holds thinking tags."""

    def texts(name: str) -> Iterator[str]:
        value = row.get(name)
        yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))

    return [name for name in _OUTPUTS if any(map(has_tags, texts(name)))]


def _is_cts(row: Row) -> bool:
    return _is_text(row, "prompt", "answer") and bool(LONG.match(row["answer"])) and not _OTHERS & row.keys()


FORMATS: Mapping[FileFormat, Format] = {
    FileFormat.cotpress: Format(
        source="the columns of this package",
        columns={name: name for name in FIELDS},
        marks=("question", "thinking"),
    ),
    FileFormat.openr1: Format(
        source="open-r1/OpenR1-Math-220k",
        columns={"question": "problem", "response": "generations", "answer": "answer", "id": _ID},
        marks=("problem", "generations"),
        matches=lambda row: isinstance(row["generations"], list) or row["generations"] is None,
        complete=("is_reasoning_complete", "finish_reasons"),
        correct=("correctness_math_verify", "correctness_llama"),
    ),
    FileFormat.s1k11: Format(
        source="simplescaling/s1K-1.1, its traces of DeepSeek R1",
        columns=_S1K | {"thinking": "deepseek_thinking_trajectory", "response": "deepseek_attempt"},
        marks=("question", "deepseek_thinking_trajectory", "deepseek_attempt"),
        correct=("deepseek_grade",),
    ),
    FileFormat.s1k_gemini: Format(
        source="simplescaling/s1K-1.1, its traces of Gemini",
        columns=_S1K | {"thinking": "gemini_thinking_trajectory", "response": "gemini_attempt"},
        marks=("question", "gemini_thinking_trajectory", "gemini_attempt"),
        correct=("gemini_grade",),
        automatic=False,
    ),
    FileFormat.s1k: Format(
        source="simplescaling/s1K",
        columns=_S1K | {"thinking": "thinking_trajectories[0]", "response": "attempt"},
        marks=("question", "thinking_trajectories", "attempt"),
    ),
    FileFormat.openmath: Format(
        source="nvidia/OpenMathReasoning",
        columns={"question": "problem", "response": "generated_solution", "answer": "expected_answer", "id": _ID},
        marks=("problem", "generated_solution"),
    ),
    FileFormat.tokenskip_pairs: Format(
        source="TokenSkip, train_outputs_compressed_ratio_*.jsonl (its uncompressed texts)",
        columns={"question": "question", "thinking": "output|cot", "answer": "answer", "id": _ID},
        marks=("question", "cot", "compressed_cot"),
        is_stated=True,
        check=_right_only,
        checked=(_RIGHT,),
    ),
    FileFormat.tokenskip: Format(
        source="TokenSkip, predictions*.jsonl",
        columns={
            "question": "question|messages[0].content",
            "thinking": "model_output",
            "answer": "answer|prediction",
            "id": _ID,
        },
        marks=("model_output", "prediction", "accuracy"),
        is_stated=True,
        check=_right_only,
        checked=(_RIGHT,),
    ),
    FileFormat.tokenskip_llamafactory: Format(
        source="TokenSkip, the rows that it gives to LLaMA-Factory",
        columns={"question": "input", "thinking": "output", "id": _ID},
        marks=("instruction", "input"),
        matches=lambda row: _is_text(row, "input", "output") and f"\n\n{FINAL_LINE}" in row["output"],
        is_stated=True,
    ),
    FileFormat.limo: Format(
        source="GAIR/LIMO",
        columns={"question": "question", "thinking": "solution", "answer": "answer", "id": _ID},
        marks=("question", "solution", "answer"),
        is_stated=True,
    ),
    FileFormat.openthoughts: Format(
        source="open-thoughts/OpenThoughts-114k, bespokelabs/Bespoke-Stratos-17k",
        columns={"answer": _ANSWER, "id": _ID},
        turns=_CONVERSATIONS,
        matches=_has_turns(_CONVERSATIONS, "from", "<|begin_of_thought|>"),
    ),
    FileFormat.sharegpt: Format(
        source="ShareGPT, open-thoughts/OpenThoughts3-1.2M",
        columns={"answer": _ANSWER, "id": _ID},
        turns=_CONVERSATIONS,
        matches=_has_turns(_CONVERSATIONS, "from"),
    ),
    FileFormat.harmony: Format(
        source="messages of gpt-oss with channels",
        columns={"answer": _ANSWER, "id": _ID},
        turns=_MESSAGES,
        matches=_has_turns(_MESSAGES, "channel"),
    ),
    FileFormat.chat: Format(
        source="messages with the thinking in reasoning_content, reasoning or thinking, or between tags",
        columns={"answer": _ANSWER, "id": _ID},
        turns=_MESSAGES,
        matches=_has_turns(_MESSAGES, "role"),
    ),
    FileFormat.prompt_completion: Format(
        source="prompt and completion as messages (TRL)",
        columns={"answer": _ANSWER, "id": _ID},
        turns=_PROMPTED,
        matches=_has_turns(_PROMPTED, "role"),
    ),
    FileFormat.alpaca: Format(
        source="LLaMA-Factory alpaca",
        columns={"question": "instruction+input", "response": "output", "answer": _ANSWER, "id": _ID},
        marks=("instruction", "output"),
        check=_one_exchange,
        checked=("history",),
    ),
    FileFormat.rendered: Format(
        source="a whole conversation in one text, as a chat template renders it",
        columns={"answer": _ANSWER, "id": _ID},
        turns=_RENDERED,
        matches=_has_answer,
    ),
    FileFormat.tagged: Format(
        source="a question, and a text with thinking tags or channels",
        columns={"question": _QUESTIONS, "answer": _ANSWER, "id": _ID},
        matches=_has_tagged_text,
    ),
    FileFormat.cts: Format(
        source="CTS, math_first_train.json",
        columns={"question": "prompt", "thinking": "answer", "id": _ID},
        marks=("prompt", "answer"),
        matches=_is_cts,
    ),
}
"""All formats; of several that fit the first is used, so that special ones stand before general ones."""
