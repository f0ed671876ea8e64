"""Traces with known importance of their parts, on which scorers are judged: planted, measured, or made redundant.

Thought Anchors (arXiv 2506.19143): reasoning whose sentences have a measured importance. A row holds the whole
`solution` and its sentences as `chunks`, each with several measures. The chunks have no line breaks, so they are
located in the thinking (the solution up to `</think>`) without regard to white space, and scorers read the original
text.

PRMBench (arXiv 2501.03124): step-by-step solutions into which redundant steps were inserted. A row holds the steps
before (`original_steps`) and after (`modified_steps_text`), and `error_steps`, the benchmark's annotation of the
redundant steps, counted from 1. The annotation is often off by one or names steps of the original, so the default is
the difference of the two texts. The response is empty.

A new truth is a class that yields traces, a schema in `data/config.py`, and a `case` in `_source`.
"""

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.data import planted
from cotpress.data.config import (
    Importance,
    PlantedTruthConfig,
    PrmbenchConfig,
    Redundant,
    ThoughtAnchorsConfig,
    TruthConfig,
)
from cotpress.data.rows import Field, RowReader
from cotpress.errors import ConfigError, DataError
from cotpress.records import EDITED_STEP, IMPORTANCE_FILE, TRACES_FILE, SentenceImportance, Span, Trace, TruthKind
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, file_sha256
from cotpress.store.tables import write_records

STAGE = "truth"
_Measured = tuple[Trace, list[SentenceImportance]]


@dataclass(frozen=True, slots=True)
class _Source:
    """Source of the traces: `open` gives them, and a counter of bad rows that is complete once they are exhausted."""

    kind: TruthKind
    identity: Mapping[str, Any]
    open: Callable[[], tuple[Iterable[_Measured], Counter[str]]]


def truth(config: TruthConfig, store: ArtifactStore) -> Artifact:
    """An artifact with `traces.parquet` (`Trace`, all in the split `train`) and `importance.parquet`.

    `importance.parquet` (`SentenceImportance`) has rows only for `TruthKind.importance`; the fact `kind` is the kind.

    Raises:
        ConfigError: A value is out of range.
        DataError: The file is missing or holds no usable row.
    """
    if config.limit is not None and config.limit < 1:
        raise ConfigError(
            f"truth.limit: got {config.limit}, allowed: a whole number of at least 1, or null for all rows"
        )
    source = _source(config)

    def produce(folder: Path) -> Summary:
        traces, dropped = source.open()
        rows = list(itertools.islice(traces, config.limit))
        if not rows:
            reasons = ", ".join(f"{n} x {why}" for why, n in dropped.most_common())
            raise DataError(f"truth={config.name}: no usable row ({reasons}). Fix: another file or other settings")
        write_records(folder / TRACES_FILE, [trace for trace, _ in rows], Trace)
        write_records(folder / IMPORTANCE_FILE, [s for _, sentences in rows for s in sentences], SentenceImportance)
        return Summary(num_rows=len(rows), dropped=dropped, facts={"kind": source.kind.value})

    return store.build(STAGE, {**source.identity, "limit": config.limit}, produce)


def _source(config: TruthConfig) -> _Source:
    match config:
        case PlantedTruthConfig():
            values = planted.settings_of(config)

            def labelled() -> tuple[Iterable[_Measured], Counter[str]]:
                traces = planted.traces(**values, half=planted.Half.evaluation, group="truth")
                return ((trace, []) for trace in traces), Counter()

            return _Source(TruthKind.tokens, {"source": "planted", "version": planted.VERSION, **values}, labelled)
        case ThoughtAnchorsConfig():
            anchors = ThoughtAnchors(Path(config.path), config.importance)
            identity = {"sha256": file_sha256(Path(config.path)), "measure": config.importance}
            return _Source(
                TruthKind.importance, {"source": "thought_anchors", **identity}, lambda: (anchors, anchors.dropped)
            )
        case PrmbenchConfig():
            bench = Prmbench(Path(config.path), config.redundant)
            identity = {"sha256": file_sha256(Path(config.path)), "redundant": config.redundant}
            return _Source(
                TruthKind.steps,
                {"source": "prmbench", **identity},
                lambda: (((trace, []) for trace in bench), bench.dropped),
            )
        case _:
            raise ConfigError(
                f"truth: no source for {type(config).__name__}. Allowed: planted, prmbench, thought_anchors"
            )


THINKING_END = "</think>"
_ANCHOR_FIELDS = (
    Field(name="id", required=True),
    Field(name="question", required=True),
    Field(name="answer", required=False),
    Field(name="solution", required=True),
    Field(name="chunks", required=True, is_list=True),
)


class ThoughtAnchors:
    """The usable rows of one .jsonl file, with their sentences."""

    def __init__(self, path: Path, importance: Importance) -> None:
        self._reader = RowReader(path, _ANCHOR_FIELDS, strict=False, key="truth.path")
        self._measure = importance.value
        self.dropped = self._reader.dropped

    def __iter__(self) -> Iterator[tuple[Trace, list[SentenceImportance]]]:
        """Traces, each with the importance of its sentences."""
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
    """Character ranges of the parts, which occur in the text in order; white space is not compared.

    Returns:
        One range per part (empty for a part of white space alone), or None if a part is missing.
    """
    places = [i for i, c in enumerate(text) if not c.isspace()]
    flat = "".join(text[i] for i in places)
    ranges, reached = [], 0
    for part in parts:
        letters = "".join(part.split())
        at = flat.find(letters, reached)
        if at < 0:
            return None
        reached = at + len(letters)
        ranges.append((places[at], places[reached - 1] + 1) if letters else (0, 0))
    return ranges


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


ORIGINAL, INSERTED = "original", "inserted"
"""Kinds of steps, besides `EDITED_STEP`."""
SEPARATOR = "\n"
_PRMBENCH_FIELDS = (
    Field(name="id", required=True),
    Field(name="question", required=True),
    Field(name="original_steps", required=True, is_list=True),
    Field(name="modified_steps_text", required=True, is_list=True),
    Field(name="error_steps", required=False, is_list=True),
)


class Prmbench:
    """The usable rows of one .jsonl file as traces whose spans are the steps."""

    def __init__(self, path: Path, redundant: Redundant) -> None:
        self._reader = RowReader(path, _PRMBENCH_FIELDS, strict=False, key="truth.path")
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
                    spans=_step_spans(steps, kinds),
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
    """Kind of each step of `after` in the alignment of `difflib` with `before`."""
    kinds = [EDITED_STEP] * len(after)
    for tag, _, _, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "replace":
            kinds[start:end] = [ORIGINAL if tag == "equal" else INSERTED] * (end - start)
    return kinds


def _step_spans(steps: Sequence[str], kinds: Sequence[str]) -> tuple[Span, ...]:
    """One span per step, without gaps: the separator before a step belongs to the step."""
    spans, start = [], 0
    for number, (step, kind) in enumerate(zip(steps, kinds, strict=True)):
        end = start + len(step) + (len(SEPARATOR) if number else 0)
        spans.append(Span(start=start, end=end, kind=kind, essential=kind != INSERTED))
        start = end
    return tuple(spans)
