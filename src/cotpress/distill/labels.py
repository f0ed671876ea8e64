"""The valuable part by the built-in generator's own labels: every span marked as essential."""

from cotpress.distill.ranges import Ranges, merged
from cotpress.records import Trace


def essential_spans(trace: Trace) -> Ranges:
    """Character ranges of the essential spans, neighbours joined; empty if the trace has no labels."""
    return merged((span.start, span.end) for span in trace.spans if span.essential)
