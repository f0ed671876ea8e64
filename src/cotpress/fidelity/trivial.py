"""Trivial rules that need no model, as lower bounds for scorers.

    position     index of the unit
    length       characters of the token's word, or of the step
    digit share  1 if the token has a digit; the share of digits among the step's characters
    new bigrams  1 if the token's word and the word before it did not stand next to each other earlier in the text;
                 the share of such words in the step

Words are compared in lower case. No rule has a direction of its own: short steps may matter more, or long ones.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.segments import unit_ids, word_ranges
from cotpress.records import Unit

POSITION, LENGTH, DIGIT_SHARE, NEW_BIGRAMS = "position", "length", "digit share", "new bigrams"
DIRECTIONS = {
    POSITION: ("late", "early"),
    LENGTH: ("long", "short"),
    DIGIT_SHARE: ("high", "low"),
    NEW_BIGRAMS: ("many", "few"),
}
"""Units that are kept first by a high value of a rule, and by a low one."""

Rules = dict[str, NDArray[np.float64]]


def token_rules(text: str, offsets: NDArray[np.int32]) -> Rules:
    """Score every token by every rule, float64 `[n]` each.

    Args:
        text: The whole text.
        offsets: int32 `[n, 2]`, characters that each token stands for.
    """
    words = [text[a:b].strip() for a, b in word_ranges(text)]
    owners = unit_ids(Unit.word, text, offsets)
    lengths = np.array([len(w) for w in words], dtype=np.float64)
    pieces = [text[a:b] for a, b in offsets.tolist()]
    return {
        POSITION: np.arange(len(offsets), dtype=np.float64),
        LENGTH: lengths[owners],
        DIGIT_SHARE: np.array([any(c.isdigit() for c in piece) for piece in pieces], dtype=np.float64),
        NEW_BIGRAMS: newness(words)[owners],
    }


def step_rules(text: str, steps: Sequence[tuple[int, int]]) -> Rules:
    """Score every step by every rule, float64 `[m]` each.

    Args:
        text: The whole text.
        steps: Character ranges, in order and disjoint.
    """
    ranges = word_ranges(text)
    new = newness([text[a:b].strip() for a, b in ranges])
    ends = np.array([b for _, b in ranges], dtype=np.int64)
    pieces = ["".join(text[a:b].split()) for a, b in steps]
    return {
        POSITION: np.arange(len(steps), dtype=np.float64),
        LENGTH: np.array([len(text[a:b].strip()) for a, b in steps], dtype=np.float64),
        DIGIT_SHARE: np.array([_mean([float(c.isdigit()) for c in piece]) for piece in pieces]),
        NEW_BIGRAMS: np.array([_mean(new[(ends > a) & (ends <= b)].tolist()) for a, b in steps]),
    }


def newness(words: Sequence[str]) -> NDArray[np.float64]:
    """Return 1 for each word that follows its predecessor for the first time, else 0, float64 `[words]`."""
    seen: set[tuple[str, str]] = set()
    new = []
    for pair in itertools.pairwise(["", *(w.lower() for w in words)]):
        new.append(float(pair not in seen))
        seen.add(pair)
    return np.array(new, dtype=np.float64)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
