"""Traces of a wanted length in tokens: built-in ones strung together, or a file's."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from cotpress.data.planted import Length
from cotpress.data.planted import traces as planted
from cotpress.errors import DataError
from cotpress.modeling.alignment import tokenize_with_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECES = 600
"""Different built-in traces that long ones are strung together from; about 120 tokens each."""
LONGEST_RESPONSE = 256
"""Tokens of the written solution that traces are conditioned on, at most."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An input row of cotpress."""

    id: str
    question: str
    thinking: str
    response: str
    answer: str


class TraceMaker:
    """Makes traces of any length; no text is used twice before all of them were.

    Args:
        tokenizer: Whose tokens are counted.
        source: jsonl file with `question`, `thinking`, `response` and `answer`; None takes the built-in generator.
        seed: Of the generator.

    Raises:
        DataError: The file has no such rows.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", source: Path | None = None, seed: int = 7) -> None:
        self.tokenizer = tokenizer
        self._pieces: Iterator[Row] = cycle(_from_file(source) if source else _built_in(seed))
        self._made = 0

    def rows(self, count: int, num_tokens: int) -> list[Row]:
        """`count` traces of `num_tokens` thinking tokens each."""
        return [self._row(num_tokens) for _ in range(count)]

    def _row(self, num_tokens: int) -> Row:
        parts = [next(self._pieces)]
        thinking = parts[0].thinking
        while len(tokenize_with_offsets(self.tokenizer, thinking)[0]) < num_tokens:
            parts.append(next(self._pieces))
            thinking += "\n\n" + parts[-1].thinking
        self._made += 1
        return Row(
            id=f"bench-{self._made:05d}",
            question=parts[0].question,
            thinking=self._cut(thinking, num_tokens),
            response=self._cut("\n".join(part.response for part in parts), LONGEST_RESPONSE),
            answer=parts[0].answer,
        )

    def _cut(self, text: str, num_tokens: int) -> str:
        """The beginning of `text`, of `num_tokens` tokens at most (fewer where one cannot be cut off)."""
        _, offsets = tokenize_with_offsets(self.tokenizer, text)
        return text if len(offsets) <= num_tokens else text[: int(offsets[num_tokens - 1][1])]


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as jsonl, the input format of cotpress and of the release's worker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[Row]:
    """Rows that `write_rows` wrote."""
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _built_in(seed: int) -> list[Row]:
    made = planted(num_traces=PIECES, families=[], length=Length.long, seed=seed)
    return [Row(id=t.id, question=t.question, thinking=t.thinking, response=t.response, answer=t.answer) for t in made]


def _from_file(path: Path) -> list[Row]:
    names = ("question", "thinking", "response", "answer")
    try:
        values = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [Row(id=str(i), **{name: str(value[name]) for name in names}) for i, value in enumerate(values)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"--traces {path}: not jsonl with {', '.join(names)}: {error!r}") from error
    usable = [row for row in rows if row.thinking.strip() and row.response.strip()]
    if not usable:
        raise DataError(f"--traces {path}: no row has both a thinking and a response")
    return usable
