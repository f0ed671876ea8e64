"""The window loop of LLMLingua 0.2.2: which tokens it keeps of one text. See llmlingua_compat.py for what is odd in it.

A text is cut window by window. Every token carries the value of the token AFTER it. Per window, the values of what is
still there are ranked, a threshold is taken at the asked share, and the window's tokens at or under it go. Then the
window that was cut and the next one are read again, after the prefix that is left, and only they get new values.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Measure(Protocol):
    """Gives each token of a text the value of the token after it; higher = keep."""

    def __call__(self, ids: NDArray[np.int32], since: int) -> NDArray[np.float32]:
        """Values of `ids[since:-1]`, float32 `[len(ids) - since - 1]`; `ids[:since]` are those of the call before."""


def window_share(num_condition: int, num_text: int, num_special: int, ratio: float) -> float:
    """Share of the values that the threshold is set at, in [0, 1]: the asked ratio, as the release distorts it.

    The condition is budgeted to the text although it is not part of the result, so the share grows with its length.
    The order of operations is the release's: the share is later cut to a whole position, where a last bit counts.

    Args:
        num_condition: Tokens of the condition alone.
        num_text: Tokens of the text.
        num_special: Special tokens that the tokenizer puts around any text.
        ratio: Asked kept fraction.
    """
    instruction = num_special  # an empty text
    budget = (instruction + (num_condition + num_special) + (num_text + num_special)) * ratio - instruction
    return max(min(1.0, budget / (num_text + 3)), 0.0)


def kept_tokens(
    ids: NDArray[np.int32], measure: Measure, *, num_condition: int, share: float, iterative_size: int
) -> NDArray[np.bool_]:
    """Which tokens of a text stay, bool `[n]`.

    Args:
        ids: int32 `[n]`, the text.
        measure: Reads the text.
        num_condition: Tokens of the condition and the blank line after it, which stand before the text.
        share: See `window_share`.
        iterative_size: Tokens per window, at least 2.
    """
    cuttable = _first_window(num_condition, len(ids), iterative_size)
    if share >= 1 or not cuttable.any():
        return np.ones(len(ids), dtype=bool)
    places = np.arange(len(ids))
    values = measure(ids, 0)
    low, high = 0, iterative_size - 1
    while True:
        cut = cuttable.copy()
        cut[:-1] &= values <= _threshold(values, share)
        places, values = places[~cut], values[~cut[:-1]]
        # What was cut and what follows is read again; the border before it is not, and keeps the value of a token
        # that may be gone by now.
        again, low = low, high - int(cut.sum())
        high = low + iterative_size
        if len(ids) < iterative_size or high > len(places):
            break
        values[again : high - 1] = measure(ids[places[:high]], again)
        cuttable = np.zeros(len(places), dtype=bool)
        cuttable[low:high] = True
        cuttable[-1] = False
    mask = np.zeros(len(ids), dtype=bool)
    mask[places] = True
    return mask


def _threshold(values: NDArray[np.float32], share: float) -> np.float32:
    """The value that a token must exceed; the pool holds kept, current and, further on, outdated values alike."""
    position = max(0, min(len(values) - 1, int(len(values) * share) - 1))
    threshold: np.float32 = np.sort(values)[::-1][position]
    return threshold


def _first_window(num_condition: int, num_text: int, iterative_size: int) -> NDArray[np.bool_]:
    """Which tokens of the text the first window may cut, bool `[num_text]`.

    The release plans windows for three tokens more than there are and counts them from where a full window would end.
    In a text shorter than a window the borders can thus come out negative, which Python counts from the end.
    """
    end = num_condition + min(iterative_size, num_text)
    planned = min(iterative_size - 1, num_text + 2)
    upper, lower = end - iterative_size + planned, end - iterative_size
    cuttable = np.ones(num_condition + num_text, dtype=bool)
    cuttable[upper:] = False
    cuttable[:lower] = False
    cuttable[-1] = False
    return cuttable[num_condition:]
