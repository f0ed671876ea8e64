"""The part of a page that is about tokens: the viewer's data, and tables and picture of what is deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cotpress.report.collect import Run
from cotpress.report.deletion_plot import deletion_picture
from cotpress.report.deletions import Deletions, by_kind, by_label
from cotpress.report.figure import Picture
from cotpress.report.page import DeletionRow, DeletionTable
from cotpress.report.sources import Sources
from cotpress.report.token_kinds import TokenKind
from cotpress.report.viewer_data import readable
from cotpress.report.viewer_encoding import encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSection:
    """What the page shows about tokens.

    Attributes:
        data: For `viewer.js`; None if there is nothing to be shown.
        missing: Why something is missing.
        num_traces: Traces in the viewer.
        percent: Kept percentage to begin with.
        picture: What each ranker deletes at that percentage; None without data.
        tables: The same in numbers.
    """

    data: dict[str, Any] | None
    missing: tuple[str, ...]
    num_traces: int
    percent: int
    picture: Picture | None
    tables: tuple[DeletionTable, ...]


def section(runs: Sequence[Run], sources: Sources, limit: int, percent: int) -> TokenSection:
    """Collect it from the artifacts of some runs.

    Args:
        runs: Finished runs.
        sources: Finds their artifacts.
        limit: Most traces of each data set.
        percent: Kept percentage to begin with, one of `PERCENTS`.
    """
    found = readable(runs, sources, limit)
    groups: list[tuple[str, str, list[Deletions]]] = []
    for data in found.data:
        where = f", {data.label}" if len(found.data) > 1 else ""
        groups.append((f"By kind of token{where}", "kind", by_kind(data)))
        groups.append((f"By planted label{where}", "label", by_label(data)))
    groups = [group for group in groups if group[2]]
    pack = {
        "percent": percent,
        "kinds": [kind.label for kind in TokenKind],
        "data": [encoded(data) for data in found.data],
        "deletions": [
            {"totals": [d.totals.tolist() for d in group], "deleted": [d.deleted.tolist() for d in group]}
            for _, _, group in groups
        ],
    }
    return TokenSection(
        data=pack if found.data else None,
        missing=found.missing,
        num_traces=sum(len(data.traces) for data in found.data),
        percent=percent,
        picture=deletion_picture([(heading, group) for heading, _, group in groups[:2]], percent),
        tables=tuple(_table(i, *group, percent) for i, group in enumerate(groups)),
    )


def _table(place: int, title: str, heading: str, group: Sequence[Deletions], percent: int) -> DeletionTable:
    shares = [d.share(percent) for d in group]
    rows = [
        DeletionRow(name=name, total=int(max(d.totals[k] for d in group)), shares=tuple(_percent(s[k]) for s in shares))
        for k, name in enumerate(group[0].names)
    ]
    rankers = tuple(d.ranker for d in group)
    return DeletionTable(title=title, heading=heading, group=place, rankers=rankers, rows=tuple(rows))


def _percent(share: float) -> int:
    """As the page's script rounds it: halves up."""
    return int(100 * share + 0.5)
