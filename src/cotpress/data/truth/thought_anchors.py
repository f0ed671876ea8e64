"""Thought Anchors: reasoning whose sentences have a measured importance (arXiv 2506.19143).

A row holds the whole `solution` and its sentences as `chunks`, each with several measures. The chunks are cleaned of
line breaks, so they are looked up in the thinking (the solution up to `</think>`) without regard to white space, and
what scorers read is the original text.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.data.config import Importance
from cotpress.data.rows import Field, RowReader
from cotpress.records import SentenceImportance, Trace

THINKING_END = "</think>"
FIELDS = (
    Field(name="id", required=True),
    Field(name="question", required=True),
    Field(name="answer", required=False),
    Field(name="solution", required=True),
    Field(name="chunks", required=True, is_list=True),
)


class ThoughtAnchors:
    """The usable rows of one file, with their sentences.

    Args:
        path: A .jsonl file.
        importance: Which of the measures counts.

    Raises:
        DataError: There is no such file.
    """

    def __init__(self, path: Path, importance: Importance) -> None:
        self._reader = RowReader(path, FIELDS, strict=False, key="truth.path")
        self._measure = importance.value
        self.dropped = self._reader.dropped

    def __iter__(self) -> Iterator[tuple[Trace, list[SentenceImportance]]]:
        """Traces, and what each of their sentences is worth."""
        for row in self._reader:
            chunks: list[Any] = row["chunks"]
            thinking, _, response = row["solution"].partition(THINKING_END)
            if not all(isinstance(c, dict) and isinstance(c.get("chunk"), str) for c in chunks):
                self.dropped["a chunk without text"] += 1
            elif not all(_is_number(c.get(self._measure)) for c in chunks):
                self.dropped[f"a chunk without {self._measure}"] += 1
            elif (ranges := locate(thinking, [c["chunk"] for c in chunks])) is None:
                self.dropped["a chunk that is not in the thinking"] += 1
            else:
                trace = Trace(
                    id=row["id"],
                    question=row["question"],
                    thinking=thinking.rstrip(),
                    response=response.strip(),
                    answer=row["answer"],
                )
                yield trace, self._sentences(row["id"], ranges, chunks)

    def _sentences(
        self, trace_id: str, ranges: Sequence[tuple[int, int]], chunks: Sequence[Mapping[str, Any]]
    ) -> list[SentenceImportance]:
        return [
            SentenceImportance(id=trace_id, start=start, end=end, importance=float(chunk[self._measure]))
            for (start, end), chunk in zip(ranges, chunks, strict=True)
            if start < end
        ]


def locate(text: str, parts: Sequence[str]) -> list[tuple[int, int]] | None:
    """Character ranges of the parts, which stand in the text in order; white space is not compared.

    Returns:
        One range per part (empty for a part of white space alone), or None if a part is not there.
    """
    places = [i for i, c in enumerate(text) if not c.isspace()]
    flat = "".join(text[i] for i in places)
    ranges, reached = [], 0
    for part in parts:
        wanted = "".join(part.split())
        found = flat.find(wanted, reached)
        if found < 0:
            return None
        reached = found + len(wanted)
        ranges.append((places[found], places[reached - 1] + 1) if wanted else (0, 0))
    return ranges


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
