r"""Tokens that are kept whatever their score, because a rule marks at least one of their characters.

`math` marks characters, without parsing LaTeX:

- numbers with the separators inside them: `1,200`, `3.14`, `.5`, `1{,}000`, `x²`;
- operators: `+ * / = < > ^ %`, `-`, their Unicode relatives and every character of the blocks Arrows and Mathematical
  Operators. `-`, `/` and `_` join words in prose: between two letters or digits of which one side is a word (two
  letters or more: "double-check", "20-minute", "and/or") they are no operators. Nor are bullets at the start of a line,
  dashes (`--`) and marks of emphasis (`*so*`, `**so**`);
- LaTeX commands whole: the backslash with its letters (`\frac`, `\operatorname*`) or its one other character. So the
  delimiters `\( \) \[ \]` are commands, and `$` is marked too, since an unpaired one turns prose into math. Braces are
  marked; the prose inside them (`\text{per hour}`) is not.

`answer` marks the gold answer as a whole number or word. Numbers are compared by value: 7 is found in `7.`, `7.0`,
`10-7` and `$7`, not in `17`, `7.5`, `-7` or `x7`; `1,200` and `1200` are the same. Any other answer is searched
literally.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cotpress.compression.config import Protection

_LETTER = r"[^\W\d_]"
_DIGIT = "[\\d\u00b2\u00b3\u00b9\u2070-\u2089\u00bc-\u00be\u2150-\u215f]"  # with superscripts, subscripts and fractions
_JOINT = rf"(?<={_LETTER}{_LETTER})[-/_][^\W_]|(?<=[^\W_])[-/_]{_LETTER}{_LETTER}"
"""A word on one side, a letter or digit on the other."""
_SIGNS = (
    "+=<>^%~{}$\u00ac\u00b0\u00b1\u00b7\u00d7\u00f7\uff0b\uff0d\uff05\uff1c-\uff1e"
    "\u2190-\u21ff\u2200-\u22ff\u27c0-\u27ff\u2980-\u2aff"
)
_MATH = re.compile(
    r"(?![A-Za-z])(?:"  # first, since most characters are letters: twice as fast
    r"^[ \t]*[-*+][ \t]"  # a bullet, skipped
    r"|(?P<math>"
    r"\\(?:[A-Za-z]+\*?[-/_]?|[^\sA-Za-z])?"  # with the operator after it, which could otherwise seem to join two words
    rf"|\.?{_DIGIT}+(?:(?:[.,]|\{{,\}}){_DIGIT}+)*"
    rf"|[{_SIGNS}]"
    r"|(?<=\s)\*(?=\s)|(?<=[^\s*])\*(?=[^\s*])|(?<=[\w)])\*\*(?=[\w(\\])"  # space on both sides or on none
    rf"|(?!{_JOINT})(?:(?<!-)-(?!-)|/|(?<=[\w)}}])_(?=[\w{{\\]))"
    "|\u2013(?=\\d)))",  # an en dash as minus
    re.MULTILINE,
)

_PLAIN_NUMBER = r"[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3})+(?![0-9])(?:\.[0-9]+)*|[0-9]+(?:\.[0-9]+)*|\.[0-9]+"
_ANSWER_NUMBER = re.compile(rf"(?P<minus>[-\u2212]?)\+?(?:\\?\$)?(?P<number>{_PLAIN_NUMBER})(?:\\?%)?")
_NUMBERS = re.compile(
    r"\\[A-Za-z]+|[^\W\d]\w*"  # commands and words, skipped with the digits in them
    rf"|(?P<span>(?P<minus>(?<![\w)}}\]])[-\u2212](?:\\?\$)?)?(?P<number>{_PLAIN_NUMBER}))"
)


def protected_tokens(
    protection: Protection,
    thinking: str,
    offsets: NDArray[np.int32],
    *,
    answer: str = "",
    keep_strings: Sequence[str] = (),
) -> NDArray[np.bool_]:
    """Return the mask of the tokens protected by a rule or by `keep_strings`, which are not empty, bool `[n]`.

    `offsets`, int32 `[n, 2]`, are the characters of `thinking` that each token stands for. An empty gold answer
    protects nothing.
    """
    marked = np.zeros(len(thinking), dtype=bool)
    match protection:
        case Protection.none:
            pass
        case Protection.digits:
            marked |= _digits(thinking)
        case Protection.math:
            marked |= _digits(thinking)  # of every script
            _mark(marked, (m.span("math") for m in _MATH.finditer(thinking) if m["math"]))
        case Protection.answer:
            _mark(marked, _occurrences(answer.strip(), thinking))
    for text in keep_strings:
        # A lookahead finds occurrences that overlap: `\n\n` in three line breaks.
        _mark(marked, ((m.start(), m.start() + len(text)) for m in re.finditer(f"(?={re.escape(text)})", thinking)))
    before = np.concatenate([[0], np.cumsum(marked)])
    return np.asarray(before[offsets[:, 1]] > before[offsets[:, 0]])


def _mark(marked: NDArray[np.bool_], spans: Iterator[tuple[int, int]]) -> None:
    for start, end in spans:
        marked[start:end] = True


def _digits(text: str) -> NDArray[np.bool_]:
    """Return the mask of digits of a text, bool `[len(text)]`."""
    digits = "".join(c for c in set(text) if c.isdigit())
    codes, of_digits = (np.frombuffer(t.encode("utf-32-le", "surrogatepass"), dtype="<u4") for t in (text, digits))
    return np.isin(codes, of_digits)


def _occurrences(answer: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the character ranges of a gold answer in a text."""
    bare = answer.strip("$").strip()
    if not bare:
        return
    gold = _ANSWER_NUMBER.fullmatch(bare)
    if gold is None:
        left = r"(?<![^\W_])(?<![0-9][.,])" if bare[0].isalnum() else ""
        right = r"(?![^\W_])(?![.,][0-9])" if bare[-1].isalnum() else ""
        yield from (m.span() for m in re.finditer(left + re.escape(bare) + right, text))
        return
    value = _value(gold)
    yield from (m.span("span") for m in _NUMBERS.finditer(text) if m["number"] and _value(m) == value)


def _value(match: re.Match[str]) -> tuple[bool, str, str]:
    """Return sign, whole part and decimals of a number, without separators and redundant zeros."""
    whole, _, decimals = re.sub(r"[^0-9.]", "", match["number"]).partition(".")
    value = whole.lstrip("0"), decimals.rstrip("0")
    return (bool(match["minus"]) and any(value), *value)
