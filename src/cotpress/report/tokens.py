"""Tokens of the training traces in a report: data of the token viewer, and the deleted share of each kind of token.

The data are read from the artifacts on disk: traces, scores, orders of deletion, planted labels. The viewer reads JSON
with the text and a few packed bytes per token, and decodes one trace at a time. `viewer.js` is the reader; the two
change together.
"""

import base64
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ArtifactError
from cotpress.modeling.segments import owners
from cotpress.modeling.selection import PERCENTS, RankedTrace, SharedTrace, num_to_keep
from cotpress.records import RANKING_FILE, SEGMENT_STARTS, SHARES_FILE, TRACES_FILE, Span, Trace, Unit
from cotpress.report.figure import PICTURE_WIDTH, SOFT, Picture, legend_size
from cotpress.report.palette import style
from cotpress.report.results import Run, Sources, StageRecord
from cotpress.report.token_kinds import TokenKind, token_kinds
from cotpress.store.artifacts import Artifact
from cotpress.store.tables import read_records, training_traces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

DEFAULT_TRACES = 200
_USUAL_RULES = {
    "granularity": Unit.word.value, "alignment": "own", "protection": "none", "segment_starts": sorted(SEGMENT_STARTS),
}  # fmt: skip
"""Rules of a selection that no label names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranker:
    """Order of deletion by trace, of a scorer and the rules of its selection, and the ratios at which runs used it.

    `shares` are there if the traces share the tokens that a ratio keeps: numbers of kept tokens by trace.
    """

    label: str
    ratios: tuple[float, ...]
    rows: dict[str, RankedTrace]
    shares: dict[str, NDArray[np.int32]] = field(default_factory=dict)

    def kept(self, row: RankedTrace) -> NDArray[np.int32]:
        """Return the place below which the tokens of a trace stay, at each of `PERCENTS`, int32 `[len(PERCENTS)]`."""
        if self.shares:
            return self.shares[row.id]
        numbers = [max(num_to_keep(len(row.places), percent / 100), row.num_held) for percent in PERCENTS]
        return np.array(numbers, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class ViewedData:
    """Traces with the orders of deletion of one or more rankers, in the tokens of one tokenizer.

    Attributes:
        traces: Shown traces, in the order of the data.
        num_traces: All training traces.
    """

    label: str
    traces: tuple[Trace, ...]
    num_traces: int
    rankers: tuple[Ranker, ...]

    def offsets(self, trace: Trace) -> NDArray[np.int32]:
        """Return the characters of a trace's tokens, int32 `[n, 2]`, which all rankers share."""
        return next(r.rows[trace.id].offsets for r in self.rankers if trace.id in r.rows)

    @cached_property
    def kinds(self) -> dict[str, NDArray[np.uint8]]:
        """Values of `TokenKind`, uint8 `[n]` per trace."""
        return {t.id: token_kinds(t.thinking, self.offsets(t)) for t in self.traces}


class _Source(NamedTuple):
    """A compress artifact of a run, its identity and traces, and the name of its order of deletion."""

    run: Run
    compressed: Artifact
    identity: Mapping[str, Any]
    traces: Artifact
    label: str


def viewed(runs: Sequence[Run], sources: Sources, limit: int = DEFAULT_TRACES) -> tuple[list[ViewedData], list[str]]:
    """Return the data of the token viewer, at most `limit` traces of each data set, and reasons for missing parts.

    If an artifact is damaged, there are no data.
    """
    missing: dict[str, None] = {}
    groups: dict[tuple[str, str], dict[str, list[_Source]]] = {}
    try:
        for run, record in [(r, record) for r in runs for record in r.results.stages]:
            if record.stage != "compress" or (record.system and record.system.is_baseline):
                continue
            source = _find(run, record, sources)
            if isinstance(source, str):
                missing[f"{run.results.name}: {source}"] = None
                continue
            identity = source.identity
            group = groups.setdefault((identity["traces"], identity["tokenizer"]), {})
            # The same scores, rules and allocation at another ratio are the same order.
            parts = [identity["scores"], identity["plan"]["rules"], identity.get("allocation")]
            order = json.dumps(parts, sort_keys=True)
            group.setdefault(order, []).append(source)
        if not groups and not missing:
            missing["none of the runs has compressed any traces"] = None
        data = [_data(list(group.values()), limit) for group in groups.values()] if limit > 0 else []
    except (ArtifactError, KeyError) as error:
        log.warning("report: no token viewer: %s", error)
        return [], [f"an artifact cannot be read: {error}"]
    return data, list(missing)


def _find(run: Run, record: StageRecord, sources: Sources) -> _Source | str:
    """Return the artifacts of one compression, or the reason why it cannot be shown."""
    compressed = sources.find(run.path, record.artifact)
    if compressed is None:
        return f"artifact {record.artifact} is not on disk any more"
    identity = compressed.manifest["identity"]
    if RANKING_FILE not in compressed.manifest["files"]:
        if "loss" in identity:
            return "it deletes no token, and only weighs their losses"
        if "first_solution" in identity:
            return "it ends every thinking with its first right solution, so there is no order of deletion"
        if identity["scores"] is None:
            return "it keeps every token, so there is no order of deletion"
        if identity["plan"].get("selection") in ("llmlingua_compat", "llmlingua2_compat"):
            return "LLMLingua's selection is made for one ratio and has no order of deletion"
        return f"artifact {compressed.key} was made by an earlier release, without the order of deletion"
    traces = sources.find(run.path, identity["traces"])
    if traces is None:
        return f"artifact {identity['traces']} is not on disk any more"
    rules = identity["plan"]["rules"] | {name: identity[name] for name in ("allocation",) if name in identity}
    unusual = [
        f"{name}={value if isinstance(value, str | int) else 'set'}"
        for name, value in rules.items()
        if value and value != _USUAL_RULES.get(name)
    ]
    label = ", ".join([record.system.label if record.system else record.label, *unusual])
    return _Source(run, compressed, identity, traces, label)


def _data(orders: Sequence[Sequence[_Source]], limit: int) -> ViewedData:
    """Return the data of some orders of deletion of the same traces, each with its compressions."""
    labels = [members[0].label for members in orders]
    rankers = []
    for i, (label, members) in enumerate(zip(labels, orders, strict=True)):
        number = f" #{labels[: i + 1].count(label)}" if labels.count(label) > 1 else ""
        made, shares = members[0].compressed, dict[str, NDArray[np.int32]]()
        rows = {r.id: r for r in read_records(made.file(RANKING_FILE), RankedTrace)}
        if SHARES_FILE in made.manifest["files"]:
            shares = {r.id: r.num_kept for r in read_records(made.file(SHARES_FILE), SharedTrace)}
        ratios = sorted({ratio for member in members for ratio in member.identity["plan"]["ratios"]})
        rankers.append(Ranker(label=label + number, ratios=tuple(ratios), rows=rows, shares=shares))
    first, results = orders[0][0], orders[0][0].run.results
    train = training_traces(first.traces.file(TRACES_FILE))
    return ViewedData(
        label=f"{results.essentials.get('data', 'traces')} in tokens of {results.model}",
        traces=tuple([t for t in train if any(t.id in r.rows for r in rankers)][:limit]),
        num_traces=len(train),
        rankers=tuple(rankers),
    )


def token_labels(text: str, spans: Sequence[Span], offsets: NDArray[np.int32]) -> list[Span | None]:
    """Return the planted label of every token, None outside of all spans."""
    ranges = [(s.start, s.end) for s in spans]
    return [spans[i] if i >= 0 else None for i in owners(ranges, text, offsets).tolist()]


def encoded(data: ViewedData) -> dict[str, Any]:
    """Return the data as JSON values for `viewer.js`; numbers per token are packed bytes in base64.

    A trace has `lengths` (UTF-16 units that each token adds to the text, as LEB128), `kinds` and `labels` (a byte per
    token), and per ranker `places` (little-endian uint16, uint32 from 65,536 tokens on), `scores` (uint16 between the
    trace's lowest and highest score), `held` and, where traces share the kept tokens, `kept` (little-endian uint32, a
    number for each of `PERCENTS`).
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
    offsets = data.offsets(trace)
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
        "ranks": [_encoded_rank(r, r.rows.get(trace.id)) for r in data.rankers],
    }


def _encoded_rank(ranker: Ranker, row: RankedTrace | None) -> dict[str, Any] | None:
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
        **({"kept": _base64(ranker.kept(row).astype("<u4").tobytes())} if ranker.shares else {}),
    }


def _utf16_lengths(text: str, offsets: NDArray[np.int32]) -> list[int]:
    """Return the UTF-16 units that each token adds to those before it; 0 for a further piece of one character."""
    units = np.array([0, *(1 + (ord(c) > 0xFFFF) for c in text)], dtype=np.int64).cumsum()
    lengths: list[int] = np.diff(np.maximum.accumulate(units[offsets[:, 1]]), prepend=0).tolist()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletions:
    """Numbers of deleted tokens by kind.

    Attributes:
        title: Title of their table.
        heading: Heading of the kinds.
        names: Kinds that occur in the traces of any ranker, in a fixed order.
        totals: int64 `[rankers, kinds]`, tokens of each kind in the shown traces.
        deleted: int64 `[rankers, kinds, len(PERCENTS)]`, deleted ones at each percentage.
    """

    title: str
    heading: str
    rankers: tuple[str, ...]
    names: tuple[str, ...]
    totals: NDArray[np.int64]
    deleted: NDArray[np.int64]

    def share(self, percent: int) -> NDArray[np.float64]:
        """Return the deleted share of each kind if `percent` of all tokens stay, float64 `[rankers, kinds]`."""
        return np.asarray(self.deleted[:, :, PERCENTS.index(percent)] / np.maximum(self.totals, 1))

    def rows(self, percent: int) -> list[tuple[str, int, list[int]]]:
        """Return name, number of tokens and deleted percentage by ranker of each kind."""
        rounded = (100 * self.share(percent) + 0.5).astype(int)  # halves up, as in the page's script
        return list(zip(self.names, self.totals.max(axis=0).tolist(), rounded.T.tolist(), strict=True))


def by_kind(data: ViewedData, place: str = "") -> Deletions:
    """Count by `TokenKind`; `place` is added to the title."""
    return _counted(data, f"By kind of token{place}", "kind", [kind.label for kind in TokenKind], data.kinds)


def by_label(data: ViewedData, place: str = "") -> Deletions | None:
    """Count by planted label, the essential ones first; None for data without labels."""
    spans = {(s.essential, s.kind) for t in data.traces for s in t.spans}
    if not spans:
        return None
    keys = sorted(spans, key=lambda key: (not key[0], key[1]))
    names = [f"{kind.replace('_', ' ')}{' *' if essential else ''}" for essential, kind in keys]

    codes = {}
    for trace in data.traces:
        labels = token_labels(trace.thinking, trace.spans, data.offsets(trace))
        codes[trace.id] = np.array([-1 if s is None else keys.index((s.essential, s.kind)) for s in labels], dtype=int)
    return _counted(data, f"By planted label{place}", "label", names, codes)


def _counted(
    data: ViewedData, title: str, heading: str, names: Sequence[str], codes: Mapping[str, NDArray[Any]]
) -> Deletions:
    """Count tokens by code and by the lowest of `PERCENTS` at which they stay; code -1 is left out."""
    first_kept = np.zeros((len(data.rankers), len(names), len(PERCENTS) + 1), dtype=np.int64)
    for counts, ranker in zip(first_kept, data.rankers, strict=True):
        for row in (ranker.rows[t.id] for t in data.traces if t.id in ranker.rows):
            kinds, cuts = codes[row.id], ranker.kept(row)
            np.add.at(counts, (kinds[kinds >= 0], np.searchsorted(cuts, row.places, side="right")[kinds >= 0]), 1)
    there = np.asarray(first_kept.any(axis=(0, 2)))
    first_kept = first_kept[:, there]
    totals = first_kept.sum(axis=2)
    return Deletions(
        title=title,
        heading=heading,
        rankers=tuple(ranker.label for ranker in data.rankers),
        names=tuple(itertools.compress(names, there.tolist())),
        totals=totals,
        deleted=totals[:, :, None] - first_kept.cumsum(axis=2)[:, :, :-1],
    )


def deletion_picture(panels: Sequence[Deletions], percent: int) -> Picture | None:
    """Plot the deleted share at a kept percentage, one panel per table; None without any."""
    if not panels:
        return None
    texts = [
        f"{ranker}: " + ", ".join(f"{n} {100 * s:.0f} %" for n, s in zip(panel.names, shares, strict=True))
        for panel in panels
        for ranker, shares in zip(panel.rankers, panel.share(percent), strict=True)
    ]

    columns, height = legend_size([*panels[0].rankers, "of all tokens"])

    def draw(figure: "Figure") -> None:
        heights = [len(panel.names) + 3 for panel in panels]
        all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, panel in zip(all_axes, panels, strict=True):
            places = range(len(panel.names))
            axes.axvline(100 - percent, color=SOFT, linestyle=":", linewidth=1.5, label="of all tokens")
            for i, (ranker, shares) in enumerate(zip(panel.rankers, 100 * panel.share(percent), strict=True)):
                colour, _, marker = style(i)
                axes.plot(shares, places, color=colour, marker=marker, markersize=8, linestyle="none", label=ranker,
                          alpha=0.9)  # fmt: skip
            axes.set_yticks(places, panel.names)
            axes.invert_yaxis()
            axes.set(title=panel.title, xlabel="% deleted", xlim=(-4, 104))
        figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)

    return Picture(
        name="deletions",
        title=f"What is deleted at ratio {percent / 100:g}",
        description=f"Share of the tokens of each kind that is deleted. {'; '.join(texts)}.",
        size=(PICTURE_WIDTH, sum(1.0 + 0.3 * len(panel.names) for panel in panels) + height),
        draw=draw,
        caption="Right of the dotted line: deleted more often than the average token.",
    )
