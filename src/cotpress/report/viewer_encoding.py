"""The token viewer's data as JSON: text and a few packed bytes per token, which the page decodes one trace at a time.

`viewer.js` is the reader; the two change together.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.records import RankedTrace, Span, Trace
from cotpress.report.token_kinds import first_visible
from cotpress.report.viewer_data import ViewedData, offsets_of


def token_labels(text: str, spans: Sequence[Span], offsets: NDArray[np.int32]) -> list[Span | None]:
    """The planted label of every token: that of its first character which is not white space."""
    starts = np.array([s.start for s in spans], dtype=np.int64)
    found: list[Span | None] = []
    for at in first_visible(text, offsets).tolist():
        i = int(np.searchsorted(starts, at, side="right")) - 1
        found.append(spans[i] if i >= 0 and at < spans[i].end else None)
    return found


def encoded(data: ViewedData) -> dict[str, Any]:
    """The data as JSON values, as `viewer.js` reads them; numbers per token are packed bytes in base64.

    A trace has `lengths` (UTF-16 units that each token adds to the text, as LEB128), `kinds` and `labels` (a byte per
    token), and per ranker `places` (little-endian uint16, uint32 from 65,536 tokens on), `scores` (uint16 between the
    trace's lowest and highest score) and `held`.
    """
    names: dict[tuple[str, bool], int] = {}
    return {
        "label": data.label,
        "num_traces": data.num_traces,
        "rankers": [{"label": r.label, "ratios": list(r.ratios)} for r in data.rankers],
        "traces": [_encoded_trace(t, data, names) for t in data.traces],
        "labels": [{"kind": kind.replace("_", " "), "essential": essential} for kind, essential in names],
    }


def _encoded_trace(trace: Trace, data: ViewedData, names: dict[tuple[str, bool], int]) -> dict[str, Any]:
    offsets = offsets_of(trace, data.rankers)
    labels = b""
    if trace.spans:
        spans = token_labels(trace.thinking, trace.spans, offsets)
        keys = [None if s is None else (s.kind, s.essential) for s in spans]
        labels = bytes(255 if k is None else names.setdefault(k, len(names)) for k in keys)
    return {
        "id": trace.id,
        "family": trace.family,
        "question": trace.question,
        "answer": trace.answer,
        "text": trace.thinking,
        "lengths": _base64(_leb128(_utf16_lengths(trace.thinking, offsets))),
        "kinds": _base64(data.kinds[trace.id].tobytes()),
        "labels": _base64(labels),
        "ranks": [_encoded_rank(r.rows.get(trace.id)) for r in data.rankers],
    }


def _encoded_rank(row: RankedTrace | None) -> dict[str, Any] | None:
    if row is None:
        return None
    low, high = float(row.scores.min()), float(row.scores.max())
    steps = np.round((row.scores.astype(np.float64) - low) / ((high - low) or 1.0) * 65535)
    width = "<u2" if len(row.places) < 65536 else "<u4"
    return {
        "held": row.num_held,
        "low": low,
        "high": high,
        "places": _base64(row.places.astype(width).tobytes()),
        "scores": _base64(steps.astype("<u2").tobytes()),
    }


def _utf16_lengths(text: str, offsets: NDArray[np.int32]) -> list[int]:
    """UTF-16 units that each token adds to those before it; 0 for a further piece of a character that has begun."""
    units = np.array([0, *(1 + (ord(c) > 0xFFFF) for c in text)], dtype=np.int64).cumsum()
    ends = np.maximum.accumulate(units[offsets[:, 1]])
    lengths: list[int] = np.diff(ends, prepend=0).tolist()
    return lengths


def _leb128(values: Iterable[int]) -> bytes:
    out = bytearray()
    for value in values:
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
