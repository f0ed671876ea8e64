"""Which traces are kept out of training."""

import dataclasses
import hashlib
from collections.abc import Sequence

from cotpress.records import Trace


def split(traces: Sequence[Trace], validation_fraction: float) -> list[Trace]:
    """The traces in their order, `round(validation_fraction * n)` of them in the split `validation`.

    Which ones depends on the hash of their ids alone, so it is the same for every seed and order of rows.

    Args:
        traces: Traces with unique ids.
        validation_fraction: In [0, 1).
    """
    num_validation = round(validation_fraction * len(traces))
    by_hash = sorted((trace.id for trace in traces), key=lambda id_: hashlib.sha256(id_.encode()).digest())
    held = set(by_hash[:num_validation])
    return [dataclasses.replace(trace, split="validation" if trace.id in held else "train") for trace in traces]
