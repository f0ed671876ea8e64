r"""Kinds of tokens: numbers, mathematics, content words, other words.

Every character of a text gets one kind, by the first rule that matches; a token has the kind of its last character that
is not white space, as words and steps do (`cotpress.modeling.segments`).

- LaTeX: a command with its backslash (`\frac`, `\(`), braces, `$`, `^`, `_`, `&`
- hesitations: words and phrases of doubt ("wait", "hmm", "let me double-check")
- digits: a number with the separators inside it
- operators: `+ - * / = < > %` and the signs of Unicode's mathematical blocks; no hyphen inside a word
- stop words: scikit-learn's English list without its number words
- other words: any other run of letters
- punctuation: everything else, white space alone included
"""

import functools
import re
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.segments import deciding_characters


class TokenKind(IntEnum):
    """Kind of a token; the value is its code in the page's data."""

    digits = 0
    operators = 1
    latex = 2
    words = 3
    stop_words = 4
    hesitations = 5
    punctuation = 6

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return {"latex": "LaTeX", "words": "other words", "stop_words": "stop words"}.get(self.name, self.name)


HESITATIONS = (
    "wait", "hmm+", "hm+", "uh+", "um+", "oops", "hold on", "no wait", "actually", "alternatively", "perhaps", "maybe",
    "on second thought", "let me think", "let's think", "let me see", "let's see", "let me (?:re|double[- ])?check",
    "let me re-?read", "let me verify", "let me make sure", "to be sure", "just to be safe", "i'm not sure", "not sure",
    "am i missing something", "is that right", "let me go back", "let me start over", "okay so", "ok so",
)  # fmt: skip
"""Phrases as regular expressions, in any case, as whole words."""
_NUMBER_WORDS = frozenset({
    "one", "two", "three", "four", "five", "six", "eight", "nine", "ten", "eleven", "twelve", "fifteen", "twenty",
    "forty", "fifty", "sixty", "hundred",
})  # fmt: skip
_RULES = re.compile(
    r"(?P<latex>\\(?:[A-Za-z]+\*?|[^\sA-Za-z])|[{}$^_&~])"
    rf"|(?P<hesitations>\b(?:{'|'.join(sorted(HESITATIONS, key=len, reverse=True))})\b)"
    r"|(?P<digits>\.?\d+(?:[.,]\d+)*)"
    "|(?P<word>[^\\W\\d_]+(?:['\u2019-][^\\W\\d_]+)*)"
    "|(?P<operators>[-+*/=<>%\u00b0\u00b1\u00b7\u00d7\u00f7\u2190-\u21ff\u2200-\u22ff\u27c0-\u27ff\u2980-\u2aff])",
    re.IGNORECASE,
)


def token_kinds(text: str, offsets: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the kind (`TokenKind`) of every token, uint8 `[n]`, given the tokens' characters, int32 `[n, 2]`."""
    kinds = np.full(len(text) + 1, TokenKind.punctuation, dtype=np.uint8)
    for match in _RULES.finditer(text):
        name = match.lastgroup or ""
        if name == "word":
            name = "stop_words" if match.group().lower().replace("\u2019", "'") in _stop_words() else "words"
        kinds[match.start() : match.end()] = TokenKind[name]
    return kinds[deciding_characters(text, offsets)]


@functools.cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    contracted = {"it's", "let's", "that's", "there's", "i'm", "i'll", "we'll", "don't", "doesn't", "isn't", "can't"}
    return frozenset(ENGLISH_STOP_WORDS | contracted | {"i", "a", "s"}) - _NUMBER_WORDS
