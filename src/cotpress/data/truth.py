"""Traces with known importance of their parts, on which scorers are judged: planted, measured, or made redundant.

Thought Anchors (arXiv 2506.19143): reasoning whose sentences have a measured importance. A row holds the whole
`solution` and its sentences as `chunks`, each with several measures. The chunks have no line breaks, so they are
located in the thinking (the solution up to `</think>`) without regard to white space, and scorers read the original
text.

PRMBench (arXiv 2501.03124): step-by-step solutions into which redundant steps were inserted. A row holds the steps
before (`original_steps`) and after (`modified_steps_text`), and `error_steps`, the benchmark's annotation of the
redundant steps, counted from 1. The annotation is often off by one or names steps of the original, so the default is
the difference of the two texts. The response is empty.

No tag is a part of a thinking (see `thinking`); labels of one with tags cannot be kept, so such a row is dropped.

A new truth is a function that yields traces, a schema in `data/config.py`, and a `case` in `_source`.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
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
from cotpress.data.files import find_files
from cotpress.data.losses import announce, facts_of, tell
from cotpress.data.registry import Source, checked
from cotpress.data.rows import BadRow, Field, RowReader, reasons
from cotpress.data.thinking import divided, has_tags, untagged
from cotpress.errors import ConfigError, DataError
from cotpress.records import EDITED_STEP, IMPORTANCE_FILE, TRACES_FILE, SentenceImportance, Span, Trace, TruthKind
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import identified
from cotpress.store.tables import write_records

Measured = tuple[Trace, list[SentenceImportance]]
"""A trace, and the importance of its sentences if that is what is known."""


def truth(config: TruthConfig, store: ArtifactStore) -> Artifact:
    """An artifact with `traces.parquet` (`Trace`, all in the split `train`) and `importance.parquet`.

    `importance.parquet` (`SentenceImportance`) has rows only for `TruthKind.importance`; the fact `kind` is the kind.

    Raises:
        ConfigError: A problem family is unknown, there are fewer planted problems, or the file is missing.
        DataError: The file holds no usable row or (if strict) a bad one.
    """
    source = checked(_source(config), _untagged, strict=config.strict, group="truth")

    def produce(folder: Path) -> Summary:
        rows = list(itertools.islice(source.open(), config.limit))
        if not rows:
            lost = reasons(source.dropped, source.first)
            raise DataError(f"truth={config.name}: no usable row ({lost}). Fix: another file or other settings")
        write_records(folder / TRACES_FILE, [trace for trace, _ in rows], Trace)
        write_records(folder / IMPORTANCE_FILE, [s for _, sentences in rows for s in sentences], SentenceImportance)
        return Summary(num_rows=len(rows), dropped=source.dropped, facts={**source.facts, **facts_of(source)})

    identity = identified({**source.identity, "limit": config.limit}, truth, *source.code)
    announce(source, store, name=config.name, group="truth")
    artifact = store.build("truth", identity, produce)
    tell(artifact, source, store, name=config.name, group="truth", limit=config.limit, strict=config.strict)
    return artifact


def _untagged(measured: Measured) -> Measured:
    trace, sentences = measured
    return untagged(trace, is_labelled=bool(sentences)), sentences


def find_truth(config: TruthConfig) -> None:
    """Check that the file of a truth is there; `ConfigError` if it does not exist."""
    _source(config)


def _source(config: TruthConfig) -> Source[Measured]:
    match config:
        case PlantedTruthConfig():
            values = planted.settings_of(config)
            return Source(
                {"source": "planted", **values},
                [planted.traces],
                lambda: ((t, []) for t in planted.traces(**values, half=planted.Half.evaluation, group="truth")),
                facts={"kind": TruthKind.tokens.value},
            )
        case ThoughtAnchorsConfig(importance=measure):
            files = find_files(config.path, "truth.path")
            reader = RowReader(files, ANCHOR_FIELDS, strict=config.strict, key="truth.path")
            return Source(
                {**files.identity, "source": "thought_anchors", "measure": measure},
                [RowReader],
                lambda: thought_anchors(reader, measure),
                reader.dropped,
                first=reader.first,
                drop=reader.drop,
                note=files.note,
                told=reader.told,
                facts={"kind": TruthKind.importance.value},
            )
        case PrmbenchConfig(redundant=redundant):
            files = find_files(config.path, "truth.path")
            reader = RowReader(files, PRMBENCH_FIELDS, strict=config.strict, key="truth.path")
            return Source(
                {**files.identity, "source": "prmbench", "redundant": redundant},
                [RowReader],
                lambda: ((trace, []) for trace in prmbench(reader, redundant)),
                reader.dropped,
                first=reader.first,
                drop=reader.drop,
                note=files.note,
                told=reader.told,
                facts={"kind": TruthKind.steps.value},
            )
    raise ConfigError(f"truth: no source for {type(config).__name__}. Allowed: planted, prmbench, thought_anchors")


ANCHOR_FIELDS = (
    Field(name="id", required=True, is_short=True),
    Field(name="question", required=True),
    Field(name="answer", required=False, is_short=True),
    Field(name="solution", required=True),
    Field(name="chunks", required=True, is_list=True),
)


def thought_anchors(reader: RowReader, importance: Importance) -> Iterator[Measured]:
    """Traces with the importance of their sentences; rows that cannot be used are counted in `reader.dropped`."""
    measure = importance.value
    for row in reader:
        chunks: list[Any] = row["chunks"]
        thinking, response = row["solution"], ""
        if has_tags(thinking):
            try:
                thinking, response = divided("", thinking)
            except BadRow as bad:
                reader.drop(bad.reason, field="solution", got=bad.got, allowed=bad.allowed)
                continue
        if not all(isinstance(c, dict) and isinstance(c.get("chunk"), str) for c in chunks):
            reader.drop(
                "a chunk without text", field="chunks", got="another type", allowed="objects with a text, chunk"
            )
        elif not all(_is_number(c.get(measure)) for c in chunks):
            reader.drop(
                f"a chunk without {measure}", field="chunks", got="no number", allowed="a finite number in each"
            )
        elif (ranges := locate(thinking, [c["chunk"] for c in chunks])) is None:
            reader.drop(
                "a chunk that is not in the thinking", field="chunks", got="another text or order",
                allowed="pieces of the thinking, in order",
            )  # fmt: skip
        else:
            trace = Trace(
                id=row["id"],
                question=row["question"],
                thinking=thinking.rstrip(),
                response=response,
                answer=row["answer"],
            )
            sentences = [
                SentenceImportance(id=trace.id, start=start, end=end, importance=float(chunk[measure]))
                for (start, end), chunk in zip(ranges, chunks, strict=True)
                if start < end
            ]
            yield trace, sentences


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
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


ORIGINAL, INSERTED = "original", "inserted"
"""Kinds of steps, besides `EDITED_STEP`."""
SEPARATOR = "\n"
MAX_STEPS = 2000
"""Most steps of a row; the alignment takes time and memory by their square."""
PRMBENCH_FIELDS = (
    Field(name="id", required=True, is_short=True),
    Field(name="question", required=True),
    Field(name="original_steps", required=True, is_list=True),
    Field(name="modified_steps_text", required=True, is_list=True),
    Field(name="error_steps", required=False, is_list=True),
)


def prmbench(reader: RowReader, redundant: Redundant) -> Iterator[Trace]:
    """Traces without response whose spans are the steps, at least one of them inserted; as `thought_anchors`."""
    for row in reader:
        steps: list[Any] = row["modified_steps_text"]
        num_steps = max(len(steps), len(row["original_steps"]))
        if not all(isinstance(s, str) and s.strip() for s in [*steps, *row["original_steps"]]):
            reader.drop("a step without text", got="another type, or blank", allowed="steps of text")
        elif num_steps > MAX_STEPS:
            reader.drop(f"over {MAX_STEPS} steps", got=str(num_steps), allowed="fewer steps")
        elif (kinds := _kinds(row, steps, redundant)) is None:
            reader.drop(
                "error_steps name a step that is not there", field="error_steps", got=str(row["error_steps"])[:60],
                allowed=f"numbers from 1 to {len(steps)}",
            )  # fmt: skip
        elif INSERTED not in kinds:
            reader.drop("no inserted step", got="none", allowed="at least one step that original_steps does not have")
        else:
            yield Trace(
                id=row["id"],
                question=row["question"],
                thinking=SEPARATOR.join(steps),
                response="",
                answer="",
                spans=_step_spans(steps, kinds),
            )


def _kinds(row: Mapping[str, Any], steps: Sequence[str], redundant: Redundant) -> list[str] | None:
    """The kind of each step; None if the annotation is out of range."""
    if redundant is Redundant.inserted:
        return differing(row["original_steps"], steps)
    numbers = row["error_steps"]
    if not all(type(n) is int and 1 <= n <= len(steps) for n in numbers):
        return None
    return [INSERTED if number in numbers else ORIGINAL for number in range(1, len(steps) + 1)]


def differing(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Kind of each step of `after`: original if it is aligned with a step of `before`, else inserted or edited.

    The alignment is the longest common subsequence, at the earliest places in `after`, so that of a repeated step the
    first copy is the original. Steps between two aligned ones are edited if steps of `before` are missing there.
    """
    kinds, start = [ORIGINAL] * len(after), 0
    aligned = _aligned(before, after)
    for (i, j), (last_i, _) in zip([*aligned, (len(before), len(after))], [(-1, -1), *aligned], strict=True):
        kinds[start:j] = [EDITED_STEP if i > last_i + 1 else INSERTED] * (j - start)
        start = j + 1
    return kinds


def _aligned(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Index pairs of the longest common subsequence; of equally long ones that with the earliest places in `after`."""
    n, m = len(before), len(after)
    longest = [[0] * (m + 1) for _ in range(n + 1)]  # of the ends from i and from j
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            is_same = before[i] == after[j]
            longest[i][j] = longest[i + 1][j + 1] + 1 if is_same else max(longest[i + 1][j], longest[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < n and j < m:
        if before[i] == after[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _step_spans(steps: Sequence[str], kinds: Sequence[str]) -> tuple[Span, ...]:
    """One span per step, without gaps: the separator before a step belongs to the step."""
    ends = list(itertools.accumulate(len(SEPARATOR) + len(step) for step in steps))
    bounds = [0, *(end - len(SEPARATOR) for end in ends)]
    return tuple(
        Span(start=start, end=end, kind=kind, essential=kind != INSERTED)
        for (start, end), kind in zip(itertools.pairwise(bounds), kinds, strict=True)
    )
