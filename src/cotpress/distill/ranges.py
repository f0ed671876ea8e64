"""Character ranges of a thinking text."""

from collections.abc import Iterable
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open character ranges, sorted and disjoint, none empty."""


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The union of half-open ranges as sorted ranges that neither touch nor overlap."""
    union: list[tuple[int, int]] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(end, union[-1][1]))
        else:
            union.append((start, end))
    return tuple(union)
