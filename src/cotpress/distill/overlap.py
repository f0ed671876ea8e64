"""The valuable part by overlap with the response: what the written solution takes up again was worth thinking.

A step is a sentence or line of the thinking. Its items are its numbers and content words; it is valuable if

    |items of the step that the response has| / |items of the step| >= min_overlap

and no earlier valuable step had exactly the same items in the same order (a plain repeat). A step without items, such
as "Hmm, let me see.", is never valuable. This needs no model; CTS (arXiv 2505.17827) does not publish its extractor.

The valuable part by the built-in generator's own labels: every span marked as essential.
"""

import re

from cotpress.distill.ranges import Ranges, merged
from cotpress.modeling.segments import step_ranges
from cotpress.records import Trace


def essential_spans(trace: Trace) -> Ranges:
    """Character ranges of the essential spans, neighbours joined; empty if the trace has no labels."""
    return merged((span.start, span.end) for span in trace.spans if span.essential)


_ITEM = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]{3,}")
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        about actually again all also and any are but can check could did does each for from get got had has have hence
        hmm how into its just know let like look maybe mean more need not now okay one only out over see should since
        some still sure than that the their them then there these they think this those though thus two verify wait
        was well were what when where which will with would yes you your
        """,
    )
)
"""Words that say nothing about the problem, thinking talk included."""


def overlapping_steps(trace: Trace, min_overlap: float) -> Ranges:
    """Character ranges of the steps whose numbers and content words reappear in the response.

    Args:
        trace: Its response must not be empty, else nothing overlaps.
        min_overlap: Smallest share of a step's distinct items that the response has, in (0, 1].
    """
    known = frozenset(_items(trace.response))
    said: set[tuple[str, ...]] = set()
    found = []
    for start, end in step_ranges(trace.thinking):
        items = _items(trace.thinking[start:end])
        distinct = frozenset(items)
        if distinct and items not in said and len(distinct & known) >= min_overlap * len(distinct):
            said.add(items)
            found.append((start, end))
    return merged(found)


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
