"""Rows that a source loses: one line for them, and an error if `strict`.

The numbers are those of the artifact's manifest: `dropped` by reason, and the facts `first_dropped` (place of the first
row by reason), `read_as_empty` (cells without text, by column), `empty` (texts without content, by field),
`numbered` (ids that were made unique), `marked_wrong` (used generations that the file marks as wrong) and
`unused_generations` (further ones of the used rows).
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from cotpress.data.registry import Source
from cotpress.data.rows import MARKED_WRONG, UNUSED, reasons
from cotpress.records import Trace
from cotpress.store.artifacts import Artifact, ArtifactStore

log = logging.getLogger(__name__)

TOLERATED_SHARE = 0.05
"""Share of lost or empty rows above which the line is a warning."""


def facts_of(source: Source[Any], empty: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Facts about the losses of a source whose records are exhausted; `empty` are the `empty_fields` of its traces."""
    counts: dict[str, Any] = {
        "first_dropped": source.first, "read_as_empty": dict(source.emptied), "empty": dict(empty or {}),
        "numbered": dict(+source.numbered), **source.tally,
    }  # fmt: skip
    return {name: count for name, count in counts.items() if count}


def empty_fields(traces: Iterable[Trace]) -> dict[str, int]:
    """Number of traces without a response, and without an answer; a field that no trace lacks is left out."""
    names = ("response", "answer")
    return dict(Counter(name for trace in traces for name in names if not getattr(trace, name).strip()))


def announce(source: Source[Any], store: ArtifactStore, *, name: str, group: str) -> None:
    """Log the way in which a source is read, once per store."""
    if source.told and store.first_time(line := f"{group}={name}: {source.told}"):
        log.info("%s", line)
    if source.warning and store.first_time(source.warning):
        log.warning("%s", source.warning)


def tell(
    artifact: Artifact, source: Source[Any], store: ArtifactStore, *, name: str, group: str, limit: int | None,
    strict: bool = False, never_shrinks: bool = False, names_columns: bool = False,
) -> None:  # fmt: skip
    """Log the losses of an artifact in one line, once per store, also where an earlier job has computed it.

    Lines before it name the files that are read, if they are several, and the number of used generations that are
    marked as wrong, if there are any. The line of losses is a warning if more than
    `TOLERATED_SHARE` of the rows are lost or empty, with `never_shrinks` if one is lost.

    With `names_columns`, settings can name the column of the answers, and the line says so where some are empty.

    Raises:
        DataError: `strict` is set, and a row of the source's file is lost.
    """
    dropped: Mapping[str, int] = artifact.manifest["dropped"]
    facts, used = artifact.facts, artifact.manifest["num_rows"]
    emptied, empty = facts.get("read_as_empty", {}), facts.get("empty", {})
    if source.note and store.first_time(note := f"{group}={name}: {source.note}"):
        log.info("%s", note)
    if strict and (dropped or emptied):
        for _ in itertools.islice(source.open(), limit):  # a lenient job computed it; a strict reader names the row
            pass
    if marked := facts.get(MARKED_WRONG, 0):
        line = (
            f"{group}={name}: {marked} of {used} used generations are marked as wrong; "
            f"{group}.generations=shortest_correct takes the shortest right one of each row"
        )
        if unused := facts.get(UNUSED, 0):
            line += f", {unused} further generation{'s are' if unused > 1 else ' is'} not used"
        if store.first_time(line):
            log.log(logging.WARNING if marked > TOLERATED_SHARE * used else logging.INFO, "%s", line)
    lost = sum(dropped.values())
    numbered = facts.get("numbered", {})
    if not (lost or emptied or empty or numbered):
        return
    parts = [f"{lost} lost: {reasons(dropped, facts.get('first_dropped'))}"] if lost else []
    parts += [f"{group}.strict=true stops at the first one"] if lost and source.drop is not None else []
    parts += [f"cells without text, read as empty: {reasons(emptied)}"] if emptied else []
    needed = _needed(group) if names_columns and "answer" in empty else ""
    parts += [f"empty: {reasons(empty)}{needed}"] if empty else []
    parts += [f"ids made unique (ID#2): {reasons(numbered)}"] if numbered else []
    warned = max([lost, *emptied.values(), *empty.values()]) > TOLERATED_SHARE * (used + lost)
    level = logging.WARNING if warned or (lost and never_shrinks) else logging.INFO
    line = f"{group}={name}: {used} of {used + lost} rows are used; {'; '.join(parts)}"
    if store.first_time(line):
        log.log(level, "%s", line)


def _needed(group: str) -> str:
    return (
        f" (an answer is needed by {group}.generations=shortest_correct, compression.protection=answer, "
        f"scorer.target=answer and sft.validation_problems; {group}.columns.answer=COLUMN gives it)"
    )
