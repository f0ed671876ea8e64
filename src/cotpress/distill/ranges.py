"""Character ranges of a thinking text."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open character ranges, sorted and disjoint, none empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an extractor found.

    Attributes:
        ranges: Valuable part of each trace by its id; traces without one are left out.
        dropped: Traces left out, by reason.
        facts: Further deterministic numbers worth keeping.
    """

    ranges: Mapping[str, Ranges]
    dropped: Counter[str]
    facts: Mapping[str, Any] = field(default_factory=dict)


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The union of half-open ranges as sorted ranges that neither touch nor overlap."""
    union: list[tuple[int, int]] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return tuple(union)
