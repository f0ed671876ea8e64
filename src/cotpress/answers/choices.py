"""Letters of multiple-choice answers: the last one that a text states, never a letter that only begins a word."""

import re

from cotpress.answers.quantities import normal
from cotpress.answers.statements import boxes

_NOUN = r"(?:answer|option|choice|statement|alternative)"
_LEAD = re.compile(
    rf"\b(?:{_NOUN}|(?:correct|right|best) one)[*_]{{0,2}} ?(?:is|:|would be|must be|should be)[*_:]{{0,3}}\s{{0,3}}"
    rf"(?:(?:therefore|thus|indeed|clearly|the|{_NOUN}) ){{0,3}}"
    rf"|\b(?:choose|select|pick|go with) (?:{_NOUN} )?",
    re.IGNORECASE,
)
"""What introduces a letter."""
_LETTER = re.compile(
    r"[*_`$\"'\u201c\u2018]{0,4}(?:\\\(|\\\[)?\s?(?:\\(?:text|mathrm|mathbf|textbf)\s?\{)?"
    r"(?:[(\[]\s?([A-Ja-j])\s?[)\]]"
    r"|([A-Ja-j])(?=[)\].,:;!*_`$}\"'\u201d\u2019\\]|\s*$|\s*\n| (?:because|since|as|is|with|which|and not)\b"
    r"| [-\u2013\u2014(])"
    r"|([B-HJ])(?=\s(?!or\b|and\b)))"
)
"""A letter in its wrapping. Bare, `A` and `I` and lower-case ones are letters only where no word follows."""
_NAMED = re.compile(rf"^{_NOUN}[ :]+", re.IGNORECASE)
_CONFIRMED = re.compile(
    rf"(?:\b(?i:{_NOUN}) [*_]{{0,2}}\(?([A-Ja-j])\)?|(?<![\w(])[*_]{{0,2}}\(([A-J])\))[*_]{{0,2}} "
    r"(?i:is|seems) (?i:(?:the|therefore|thus|most likely|clearly) ){0,3}(?i:correct|right|answer|best)"
)
"""`Option B is correct`, `(B) is the answer`."""
_ALONE = re.compile(r"^[ \t]*[*_]{0,2}[(\[]?([A-J])[)\]]?\.?[*_]{0,2}\.?[ \t]*$", re.MULTILINE)
"""A line that is a letter."""


def choice(text: str) -> str:
    """The letter of a `normal` answer such as `(B)`, `B.` or `B) 12 cm`, in upper case; empty if it is none."""
    match = re.match(r"\(?([A-Ja-j])(?:\)|[.:](?:\s|$)|$)", text)
    return match.group(1).upper() if match else ""


def last_choice(text: str) -> str:
    r"""The letter that a solution states last: `\boxed{B}`, `the answer is (B)`, `option B is correct`, a line `B`.

    A lower-case letter counts in parentheses, in a box, or where nothing but punctuation follows it; `the answer is a
    proton` states no letter.
    """
    found = [(box.end, letter) for box in boxes(text) if (letter := choice(_NAMED.sub("", normal(box.content))))]
    leads = (_LETTER.match(text, lead.end()) for lead in _LEAD.finditer(text))
    matches = [m for m in leads if m is not None]
    matches += [*_CONFIRMED.finditer(text), *_ALONE.finditer(text)]
    found += [(m.end(), next(group for group in m.groups() if group).upper()) for m in matches]
    return max(found, default=(0, ""))[1]
