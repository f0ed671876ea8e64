"""Tokens that are kept whatever their score."""

import numpy as np
from numpy.typing import NDArray

from cotpress.compression.config import Protection


def protected_tokens(protection: Protection, thinking: str, offsets: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which tokens a protection rule holds, bool `[n]`.

    Args:
        protection: The rule.
        thinking: The whole text.
        offsets: int32 `[n, 2]`, characters of `thinking` that each token stands for.
    """
    match protection:
        case Protection.none:
            return np.zeros(len(offsets), dtype=bool)
        case Protection.digits:
            return _touching(np.array([c.isdigit() for c in thinking], dtype=bool), offsets)


def _touching(characters: NDArray[np.bool_], offsets: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Tokens with at least one of the marked characters."""
    before = np.concatenate([[0], np.cumsum(characters)])
    return np.asarray(before[offsets[:, 1]] > before[offsets[:, 0]])
