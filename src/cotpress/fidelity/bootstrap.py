"""Intervals over traces: the trace is what was drawn, its tokens and steps are not independent."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cotpress.records import Interval

SEED = 0
"""One stream of resamples for every interval, so that a repeated command gives the same numbers."""


def mean_interval(values: Sequence[float], *, confidence: float, num_resamples: int) -> Interval:
    """Mean over traces with its percentile bootstrap interval (Efron 1979).

    Args:
        values: One number per trace, at least one.
        confidence: Level, in (0, 1).
        num_resamples: Resamples of the traces.
    """
    data = np.asarray(values, dtype=np.float64)
    means = _weights(len(data), num_resamples) @ data / len(data)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    mean = float(data.mean())
    return Interval(value=mean, low=min(low, mean), high=max(high, mean), n=len(data))


@functools.lru_cache(maxsize=8)
def _weights(num_values: int, num_resamples: int) -> NDArray[np.float64]:
    """How often each resample draws each value, float64 `[num_resamples, num_values]`."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(num_values, np.full(num_values, 1 / num_values), size=num_resamples).astype(np.float64)
