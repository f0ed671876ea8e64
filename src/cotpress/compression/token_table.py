"""Table of kept and dropped tokens for trackers."""

from typing import TYPE_CHECKING

from cotpress.compression.config import Alignment
from cotpress.compression.ranking import student_scores
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.records import COMPRESSED_FILE, SCORES_FILE, TRACES_FILE, CompressedTrace, ScoredTrace, Trace
from cotpress.store.artifacts import Artifact
from cotpress.store.tables import read_records
from cotpress.tracking import Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("trace_id", "position", "token", "score", "kept", "ratio")


def token_table(
    compressed: Artifact, traces: Artifact, scores: Artifact | None, tokenizer: "PreTrainedTokenizerBase", limit: int
) -> Table:
    """Return one row per thinking token of the first traces.

    Args:
        compressed: Compress artifact.
        traces: Artifact with the texts.
        scores: Score artifact; None without scores.
        tokenizer: The student's.
        limit: Maximum number of rows; the last trace may be cut.
    """
    texts = {t.id: t for t in read_records(traces.file(TRACES_FILE), Trace)}
    scored = {} if scores is None else {s.id: s for s in read_records(scores.file(SCORES_FILE), ScoredTrace)}
    key = tokenizer_fingerprint(tokenizer)
    rows: list[tuple[str, int, str, float | None, bool, float]] = []
    for row in read_records(compressed.file(COMPRESSED_FILE), CompressedTrace):
        if len(rows) >= limit:
            break
        trace = texts[row.id]
        ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
        if row.id in scored:
            values = student_scores(Alignment.own, scored[row.id], trace, ids, offsets, key).tolist()
        else:
            values = [None] * len(ids)
        for place, ((start, end), value, kept) in enumerate(zip(offsets.tolist(), values, row.keep_mask, strict=True)):
            rows.append((row.id, place, trace.thinking[start:end], value, bool(kept), row.target_ratio))
    return Table(columns=COLUMNS, rows=rows[:limit])
