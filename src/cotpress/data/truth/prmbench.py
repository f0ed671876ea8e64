"""PRMBench: step-by-step solutions into which redundant steps were inserted (arXiv 2501.03124).

A row holds the steps before (`original_steps`) and after (`modified_steps_text`), and `error_steps`, the benchmark's
own annotation of what is redundant, counted from 1. The annotation is often one off or names steps that were there
before, so by default what counts is the difference of the two texts. There is no solution beside the steps: the
response is empty.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.data.config import Redundant
from cotpress.data.rows import Field, RowReader
from cotpress.records import EDITED_STEP, Span, Trace

ORIGINAL, INSERTED = "original", "inserted"
"""Kinds of steps, beside `EDITED_STEP`."""
SEPARATOR = "\n"
FIELDS = (
    Field(name="id", required=True),
    Field(name="question", required=True),
    Field(name="original_steps", required=True, is_list=True),
    Field(name="modified_steps_text", required=True, is_list=True),
    Field(name="error_steps", required=False, is_list=True),
)


class Prmbench:
    """The usable rows of one file as traces whose spans are the steps.

    Args:
        path: A .jsonl file.
        redundant: Which steps count as redundant.

    Raises:
        DataError: There is no such file.
    """

    def __init__(self, path: Path, redundant: Redundant) -> None:
        self._reader = RowReader(path, FIELDS, strict=False, key="truth.path")
        self._redundant = redundant
        self.dropped = self._reader.dropped

    def __iter__(self) -> Iterator[Trace]:
        """Traces without response, with at least one inserted step."""
        for row in self._reader:
            steps: list[Any] = row["modified_steps_text"]
            if not all(isinstance(s, str) and s.strip() for s in [*steps, *row["original_steps"]]):
                self.dropped["a step without text"] += 1
                continue
            kinds = self._kinds(row)
            if kinds is None:
                self.dropped["error_steps name a step that is not there"] += 1
            elif INSERTED not in kinds:
                self.dropped["no inserted step"] += 1
            else:
                yield Trace(
                    id=row["id"],
                    question=row["question"],
                    thinking=SEPARATOR.join(steps),
                    response="",
                    answer="",
                    spans=_spans(steps, kinds),
                )

    def _kinds(self, row: Mapping[str, Any]) -> list[str] | None:
        steps = row["modified_steps_text"]
        match self._redundant:
            case Redundant.inserted:
                return differing(row["original_steps"], steps)
            case Redundant.error_steps:
                named = row["error_steps"]
                if not all(isinstance(n, int) and 1 <= n <= len(steps) for n in named):
                    return None
                return [INSERTED if number in named else ORIGINAL for number in range(1, len(steps) + 1)]


def differing(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The kind of each step of `after`, as `difflib` aligns it with `before`."""
    kinds = [EDITED_STEP] * len(after)
    for tag, _, _, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "replace":
            kinds[start:end] = [ORIGINAL if tag == "equal" else INSERTED] * (end - start)
    return kinds


def _spans(steps: Sequence[str], kinds: Sequence[str]) -> tuple[Span, ...]:
    """One span per step, without gap: the separator before a step belongs to it."""
    spans, start = [], 0
    for number, (step, kind) in enumerate(zip(steps, kinds, strict=True)):
        end = start + len(step) + (len(SEPARATOR) if number else 0)
        spans.append(Span(start=start, end=end, kind=kind, essential=kind != INSERTED))
        start = end
    return tuple(spans)
