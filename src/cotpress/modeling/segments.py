"""Words and steps of a text, and which of them each token belongs to.

A word is what stands between white space. A step is a sentence (up to `.`, `!` or `?` before white space) or the rest
of a line. White space before a word or step belongs to it; what is left at the end belongs to the last one.
"""

import re

import numpy as np
from numpy.typing import NDArray

from cotpress.records import Unit

_WORD = re.compile(r"\S+")
_STEP = re.compile(r"\S.*?(?:[.!?](?=\s)|(?=\n)|\Z)")
"""A full stop inside a number ends nothing."""


def word_ranges(text: str) -> list[tuple[int, int]]:
    """Character ranges of the words; together they cover the text. Empty for a text of white space alone."""
    return _ranges(_WORD, text)


def step_ranges(text: str) -> list[tuple[int, int]]:
    """Character ranges of the steps; together they cover the text. Empty for a text of white space alone."""
    return _ranges(_STEP, text)


def unit_ids(unit: Unit, text: str, offsets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Which unit each token belongs to, int64 `[n]`, ascending from 0; a token's last character decides.

    Args:
        unit: Kind of unit; with `Unit.token` every token is its own.
        text: The whole text.
        offsets: int32 `[n, 2]`, characters of `text` that each token stands for.
    """
    if unit is Unit.token:
        return np.arange(len(offsets), dtype=np.int64)
    ends = np.array([end for _, end in (word_ranges if unit is Unit.word else step_ranges)(text)], dtype=np.int64)
    found = np.searchsorted(ends, np.maximum(offsets[:, 1].astype(np.int64) - 1, 0), side="right")
    return np.minimum(found, max(len(ends) - 1, 0)).astype(np.int64)


def _ranges(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    ends = [match.end() for match in pattern.finditer(text)]
    if not ends:
        return []
    ends[-1] = len(text)
    return list(zip([0, *ends[:-1]], ends, strict=True))
