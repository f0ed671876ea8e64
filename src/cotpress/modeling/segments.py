"""Words, steps, paragraphs and segments of a text, and the unit that each token belongs to.

A word is a number, a word of letters with its inner hyphens and apostrophes, a LaTeX command, or any other single
sign (a grapheme cluster, such as an emoji of several characters): the full stop after `= 11.` is no part of the number.
In scripts that are written without spaces (Chinese, Japanese, Thai, ...) every letter is a word, since a run of letters
is a whole clause there. Combining marks belong to the letter before them. A step is a sentence or the rest of a line:
it ends with a line, after `.`, `!` or `?` (and closing quotes, brackets or markup) before white space, and after the
full-width marks of Chinese and Japanese. A paragraph is the text up to a blank line. A segment is a run of steps that
begins with one that opens with a given text (`Wait`): after any punctuation and markup, in any case, and not as a part
of a longer word (`Waiting`). A step of such openings alone (`Hmm.`) belongs to the step that follows it. White space
before a unit belongs to it, white space at the end of the text to the last one.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from cotpress.records import SEGMENT_STARTS, Unit

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
"""Scripts without spaces between words, as a set of `regex`, version 1."""
_LETTERS = rf"(?:[[\p{{L}}\p{{Nl}}\p{{No}}]--{UNSPACED}]\p{{M}}*)+"
_WORD = regex.compile(
    rf"\d+(?:[.,]\d+)*|\\?{_LETTERS}(?:['\u2019-]{_LETTERS})*|(?![\s\x1c-\x1f])\X",
    regex.VERSION1,
)
_STEP = re.compile(
    r"""
    (?: ^ [^\S\n]* \d{1,3} \. [^\S\n]+ )?           # the number of a list item ends no step
    \S .*?
    (?: [.!?] ["'\u201d\u2019)\]}*_$]* (?=\s)     # nor does a full stop inside a number
      | [\u3002\uff01\uff1f]
      | (?<=\S) (?= [^\S\n]* $ ) )
    """,
    re.VERBOSE | re.MULTILINE,
)
_BLANK_LINE = re.compile(r"\s*?\n[^\S\n]*\n")
_HYPHENS, _APOSTROPHES = "-\u2010\u2011", "'\u2019"


def word_ranges(text: str) -> list[tuple[int, int]]:
    """Return the character ranges of the words, in order; they cover the text, and only the empty text has none."""
    return _ranges(_WORD, text)


def step_ranges(text: str) -> list[tuple[int, int]]:
    """Return the character ranges of the steps, in order; they cover the text, and only the empty text has none."""
    return _ranges(_STEP, text)


def paragraph_ranges(text: str) -> list[tuple[int, int]]:
    """Return the character ranges of the paragraphs; as `step_ranges`, whose ranges they join."""
    steps = step_ranges(text)
    return _joined(text, [start for start, end in steps[1:] if _BLANK_LINE.match(text, start, end)])


def segment_ranges(text: str, starts: Sequence[str] = SEGMENT_STARTS) -> list[tuple[int, int]]:
    """Return the character ranges of the segments that `starts` begin; as `step_ranges`, whose ranges they join."""
    opening, first, is_bare = _opening(tuple(starts)), list[int](), False
    for start, end in step_ranges(text):
        match = opening.match(text, start, end)
        if match is not None and start > 0 and not is_bare:
            first.append(start)
        is_bare = match is not None and match.end() == end
    return _joined(text, first)


def unit_ranges(unit: Unit, text: str, starts: Sequence[str] = SEGMENT_STARTS) -> list[tuple[int, int]]:
    """Return the character ranges of the units of a text, those of `Unit.token` excepted; see `segment_ranges`."""
    match unit:
        case Unit.word:
            return word_ranges(text)
        case Unit.step:
            return step_ranges(text)
        case Unit.paragraph:
            return paragraph_ranges(text)
        case Unit.segment:
            return segment_ranges(text, starts)
        case Unit.token:
            raise ValueError("tokens are no ranges of a text alone")


def character_groups(offsets: NDArray[Any]) -> NDArray[np.int64]:
    """Return the group of each token, int64 `[n]`, from 0 without gaps: tokens that share a character are one group.

    In byte-level tokenizers a character (of Chinese, an emoji, a mathematical sign) may be several tokens, which are no
    text without each other, and a token may hold the last byte of one character and the first of the next. A group
    stands for whole characters, so its tokens decode to its text whatever stands beside them. Most are a single token.

    `offsets`, int `[n, 2]`, are the characters that each token stands for, with starts in ascending order.
    """
    starts_group = np.ones(len(offsets), dtype=np.bool_)
    starts_group[1:] = offsets[1:, 0] >= np.maximum.accumulate(offsets[:, 1])[:-1]
    return np.cumsum(starts_group) - 1


def unit_ids(
    unit: Unit, text: str, offsets: NDArray[np.int32], starts: Sequence[str] = SEGMENT_STARTS
) -> NDArray[np.int64]:
    """Return the unit of each token, int64 `[n]`, ascending; arguments and rule as `owners` and `segment_ranges`.

    The tokens of a character (`character_groups`) are in one unit, also with `Unit.token`, where every other token is a
    unit of its own. A unit inside a longer token has no token, so numbers may be missing.
    """
    groups = character_groups(offsets)
    if unit is Unit.token or len(groups) == 0:
        return groups
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    whole = np.stack([offsets[first, 0], np.maximum.reduceat(offsets[:, 1], first)], axis=1)
    return owners(unit_ranges(unit, text, starts), text, whole)[groups]


def owners(ranges: Sequence[tuple[int, int]], text: str, offsets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the index of the range that each token belongs to, int64 `[n]`; -1 for none.

    This is the rule for words, steps, sentences and labelled spans alike: the last character of the token that is not
    white space decides. So `.` and the blank line after it, which many tokenizers make one token, end a step and do not
    begin the next. Of a token of white space alone the last character decides.

    The ranges are disjoint; `offsets` are int32 `[n, 2]`, the characters of `text` that each token stands for.
    """
    index = np.full(len(text) + 1, -1, dtype=np.int64)
    for i, (start, end) in enumerate(ranges):
        index[start:end] = i
    return index[deciding_characters(text, offsets)]


def deciding_characters(text: str, offsets: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the position of each token's last character that is not white space, else of its last, int64 `[n]`."""
    pieces = [(start, end, len(text[start:end].rstrip())) for start, end in offsets.tolist()]
    ends = [start + visible if visible else end for start, end, visible in pieces]
    return np.maximum(np.array(ends, dtype=np.int64) - 1, 0)


def is_blank(text: str, offsets: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return the mask of tokens that stand for white space alone, bool `[n]`."""
    return np.array([not text[a:b].strip() for a, b in offsets.tolist()], dtype=np.bool_)


@lru_cache(maxsize=8)
def _opening(starts: tuple[str, ...]) -> "regex.Pattern[str]":
    """Return the pattern of one opening or several, with the punctuation before and after; it begins a step."""
    words = "|".join(sorted({_spelling(form) for start in starts for form in _forms(start)}, key=len, reverse=True))
    assert words, "no openings"
    marks = r"[\s\p{P}\p{S}]*"
    return regex.compile(rf"(?:\s*\d{{1,3}}[.)]\s)?{marks}(?:(?:{words}){marks})+", regex.VERSION1 | regex.IGNORECASE)


def _forms(start: str) -> set[str]:
    """Both Unicode forms of a text, as either may stand in a trace."""
    return {unicodedata.normalize(form, start.strip()) for form in ("NFC", "NFD")}


def _spelling(start: str) -> str:
    """Return the pattern of a text with any white space, hyphen and apostrophe, up to the end of its last word.

    Between two words may stand a comma or full stops: `Wait no` is found in `Wait, no`.
    """
    signs = {"-": f"[{_HYPHENS}]", "'": f"[{_APOSTROPHES}]"}
    signs |= dict.fromkeys(_HYPHENS, signs["-"]) | dict.fromkeys(_APOSTROPHES, signs["'"])
    words = ("".join(signs.get(sign) or regex.escape(sign) for sign in word) for word in start.split())
    ends_word = regex.search(rf"(?:[[\p{{L}}\p{{N}}]--{UNSPACED}]\p{{M}}*)\Z", start, regex.VERSION1)
    return r"[,.\u2026]*\s+".join(words) + (
        rf"(?![{_HYPHENS}{_APOSTROPHES}]?[\p{{L}}\p{{M}}\p{{N}}_])" if ends_word else ""
    )


def _joined(text: str, firsts: Sequence[int]) -> list[tuple[int, int]]:
    """Return the ranges that begin at 0 and at `firsts`; the empty text has none."""
    return list(pairwise([0, *firsts, len(text)])) if text else []


def _ranges(pattern: "re.Pattern[str] | regex.Pattern[str]", text: str) -> list[tuple[int, int]]:
    ends = [match.end() for match in pattern.finditer(text)]
    if text:
        ends[-1:] = [len(text)]
    return list(pairwise([0, *ends]))
