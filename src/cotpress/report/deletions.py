"""Deleted share of each kind of token, and of each planted label, by scorer and ratio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cotpress.records import RankedTrace, Trace, num_to_keep
from cotpress.report.figure import SOFT, Picture, style
from cotpress.report.token_kinds import TokenKind
from cotpress.report.viewer_data import Ranker, ViewedData, offsets_of, token_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PERCENTS = tuple(range(30, 101))
"""Kept percentages of the page's slider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletions:
    """Numbers of deleted tokens by kind, of one ranker.

    Attributes:
        ranker: Its label.
        names: Kinds that occur in the traces of any ranker, in a fixed order.
        totals: int64 `[kinds]`, tokens of each kind in the shown traces.
        deleted: int64 `[kinds, len(PERCENTS)]`, deleted ones at each percentage.
    """

    ranker: str
    names: tuple[str, ...]
    totals: NDArray[np.int64]
    deleted: NDArray[np.int64]

    def share(self, percent: int) -> NDArray[np.float64]:
        """Return the deleted share of each kind if `percent` of all tokens stay, float64 `[kinds]`."""
        return np.asarray(self.deleted[:, PERCENTS.index(percent)] / np.maximum(self.totals, 1))


def by_kind(data: ViewedData) -> list[Deletions]:
    """Count by `TokenKind`, once per ranker."""
    names = [kind.label for kind in TokenKind]
    return _counted(data, names, lambda t: data.kinds[t.id].astype(np.int64))


def by_label(data: ViewedData) -> list[Deletions]:
    """Count by planted label, the essential ones first, once per ranker; empty for data without labels."""
    spans = {(s.essential, s.kind) for t in data.traces for s in t.spans}
    if not spans:
        return []
    keys = sorted(spans, key=lambda key: (not key[0], key[1]))
    names = [f"{kind.replace('_', ' ')}{' *' if essential else ''}" for essential, kind in keys]

    def codes(trace: Trace) -> NDArray[np.int64]:
        labels = token_labels(trace.thinking, trace.spans, offsets_of(trace, data.rankers))
        return np.array([-1 if s is None else keys.index((s.essential, s.kind)) for s in labels], dtype=np.int64)

    cached = {t.id: codes(t) for t in data.traces}
    return _counted(data, names, lambda t: cached[t.id])


def _counted(data: ViewedData, names: Sequence[str], codes: Callable[[Trace], NDArray[np.int64]]) -> list[Deletions]:
    counts = [_first_kept_counts(r, data.traces, len(names), codes) for r in data.rankers]
    there = np.sum([c.sum(axis=1) for c in counts], axis=0) > 0
    deletions = []
    for ranker, first_kept in zip(data.rankers, counts, strict=True):
        totals = first_kept.sum(axis=1)
        deleted = totals[:, None] - first_kept.cumsum(axis=1)[:, :-1]
        shown = tuple(name for name, some in zip(names, there, strict=True) if some)
        deletions.append(Deletions(ranker=ranker.label, names=shown, totals=totals[there], deleted=deleted[there]))
    return deletions


def _first_kept_counts(
    ranker: Ranker, traces: Sequence[Trace], num_kinds: int, codes: Callable[[Trace], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Count tokens by kind and by the lowest of `PERCENTS` at which they stay, int64 `[kinds, len(PERCENTS) + 1]`."""
    counts = np.zeros((num_kinds, len(PERCENTS) + 1), dtype=np.int64)
    for trace in traces:
        if trace.id in ranker.rows:
            kinds = codes(trace)
            np.add.at(counts, (kinds[kinds >= 0], _first_kept(ranker.rows[trace.id])[kinds >= 0]), 1)
    return counts


def _first_kept(row: RankedTrace) -> NDArray[np.int64]:
    """Return the index of the lowest of `PERCENTS` at which each token stays, int64 `[n]`."""
    cuts = [max(num_to_keep(len(row.places), percent / 100), row.num_held) for percent in PERCENTS]
    return np.searchsorted(cuts, row.places, side="right")


def deletion_picture(groups: Sequence[tuple[str, Sequence[Deletions]]], percent: int) -> Picture | None:
    """Plot the deleted share, a marker per scorer and kind of token.

    Args:
        groups: Heading and deletions of each panel; empty panels are left out.
        percent: Kept percentage of all tokens.
    """
    panels = [(heading, deletions) for heading, deletions in groups if deletions]
    if not panels:
        return None
    texts = [
        f"{d.ranker}: " + ", ".join(f"{n} {100 * s:.0f} %" for n, s in zip(d.names, d.share(percent), strict=True))
        for _, deletions in panels
        for d in deletions
    ]
    most = max(len(d.names) for _, deletions in panels for d in deletions)
    return Picture(
        name="deletions",
        title=f"What is deleted at ratio {percent / 100:g}",
        description=f"Share of the tokens of each kind that is deleted. {'; '.join(texts)}.",
        size=(5.0 + 3.2 * len(panels), 1.3 + 0.36 * most),
        draw=lambda figure: _draw(figure, panels, percent),
    )


def _draw(figure: "Figure", panels: Sequence[tuple[str, Sequence[Deletions]]], percent: int) -> None:
    handles = None
    for axes, (heading, deletions) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        names = list(dict.fromkeys(name for d in deletions for name in d.names))
        axes.axvline(100 - percent, color=SOFT, linestyle=":", linewidth=1.5, label="of all tokens")
        for i, d in enumerate(deletions):
            colour, marker = style(i)
            share = dict(zip(d.names, 100 * d.share(percent), strict=True))
            axes.plot([share.get(n) for n in names], range(len(names)), color=colour, marker=marker, markersize=8,
                      linestyle="none", label=d.ranker, alpha=0.9)  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_title(heading)
        axes.set_xlabel("% deleted")
        axes.set_xlim(-4, 104)
        handles = handles or axes.get_legend_handles_labels()
    if handles is not None:
        figure.legend(*handles, loc="outside lower center", ncols=5)
