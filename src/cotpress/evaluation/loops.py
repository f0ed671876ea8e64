"""Answers that end in a repetition.

A text loops if its last pieces consist of one n-gram of at most `LONGEST` pieces, repeated at least `REPEATS` times
and over at least `SHORTEST` pieces. A piece is a word, a digit or another sign. It is the end that counts: a student
that got stuck repeats until its budget is over, while a text that repeats something and goes on did not get stuck.
Repetitions that count upwards (`Step 12 ... Step 13 ...`) are not exact and not found.
"""

import re
from collections.abc import Hashable, Sequence

import numpy as np

REPEATS = 4
"""Fewest times that the n-gram stands at the end."""
SHORTEST = 40
"""Fewest pieces that the repetitions cover together; four times `ha` is laughter."""
LONGEST = 200
"""Longest n-gram, in pieces: a paragraph."""

_PIECE = re.compile(r"\d|[^\W\d]{1,16}|[^\w\s]")
_TAIL_CHARACTERS = 12 * REPEATS * LONGEST
"""No more of a text is looked at; 12 characters is far above the mean length of a piece."""


def is_loop(items: Sequence[Hashable]) -> bool:
    """Whether a sequence of tokens, words or anything else ends in a repetition as defined above."""
    tail = items[-REPEATS * LONGEST :]
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(item, len(numbers)) for item in tail], dtype=np.int32)[::-1]
    for period in range(1, min(LONGEST, len(codes) // REPEATS) + 1):
        covered = max(REPEATS * period, SHORTEST)
        if covered <= len(codes) and np.array_equal(codes[: covered - period], codes[period:covered]):
            return True
    return False


def text_loops(text: str) -> bool:
    """Whether a text ends in a repetition; independent of any tokenizer. A budget may cut its last piece short."""
    pieces = _PIECE.findall(text[-_TAIL_CHARACTERS:])
    return is_loop(pieces) or is_loop(pieces[:-1])
