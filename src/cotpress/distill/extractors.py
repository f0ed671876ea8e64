"""Valuable parts of thinking texts as character ranges, and the two extractors that need no model.

`labels` takes the essential spans of the built-in generator. `overlap` takes the steps that reappear in the response. A
step is a sentence or line of the thinking, and its items are its numbers and content words. It is valuable if

    |items of the step that the response has| / |items of the step| >= min_overlap

and no earlier valuable step had the same items in the same order (a plain repeat). A step without items, such as "Hmm,
let me see.", is never valuable. CTS (arXiv 2505.17827) does not publish its extractor.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cotpress.modeling.segments import step_ranges
from cotpress.records import Trace

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open character ranges, sorted and disjoint, none empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """Result of an extractor.

    Attributes:
        ranges: Valuable part of each trace by its id; traces without one are left out.
        dropped: Number of traces left out, by reason.
        facts: Further deterministic numbers for the manifest.
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


def essential_spans(trace: Trace) -> Ranges:
    """Character ranges of the essential spans, neighbours joined; empty if the trace has no labels."""
    return merged((span.start, span.end) for span in trace.spans if span.essential)


_ITEM = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]{3,}")
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        about actually again all also and any are but can could check did does each for from get got had has have hence
        hmm how into its just know let like look maybe mean more need not now okay one only out over see should since
        some still sure than that the their them then there these they think this those though thus two verify wait
        was well were what when where which will with would yes you your
        """,
    )
)
"""Words without information about the problem, fillers of thinking included."""


def overlapping_steps(trace: Trace, min_overlap: float) -> Ranges:
    """Ranges of the steps whose numbers and content words reappear in the response; without one nothing does."""
    known = frozenset(_items(trace.response))
    seen: set[tuple[str, ...]] = set()
    steps = []
    for start, end in step_ranges(trace.thinking):
        items = _items(trace.thinking[start:end])
        distinct = frozenset(items)
        if distinct and items not in seen and len(distinct & known) >= min_overlap * len(distinct):
            seen.add(items)
            steps.append((start, end))
    return merged(steps)


def _items(text: str) -> tuple[str, ...]:
    """Numbers (thousands separators removed) and lower-case content words, in order."""
    items = []
    for match in _ITEM.finditer(text.lower()):
        item = match.group()
        if item[0].isdigit():
            item = re.sub(r",(?=\d{3}(?!\d))", "", item)
        if item not in _FUNCTION_WORDS:
            items.append(item)
    return tuple(items)
