"""Extraction of the final answer from a solution, as a mathematical expression, a number, an integer or a letter."""

import re
from enum import Enum
from fractions import Fraction

from cotpress.answers.quantities import INTEGER, normal, read_quantity
from cotpress.answers.statements import TAIL, after_hashes, boxed, boxes, cut_off, formulas, stated

_NUMBER = re.compile(rf"(?<![\w.,])-?\$?(?:{INTEGER}(?:\.\d+)?|\.\d+)(?:/\d+)?%?|(?:{INTEGER}(?:\.\d+)?|\.\d+)%?")
_SCALED = re.compile(r" ?(hundred|thousand|million|billion|trillion|dozen)\b", re.IGNORECASE)
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MINUS = str.maketrans("\u2212\u2013", "--")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_NOUN = r"(?:answer|option|choice|statement|alternative)"
_LEAD = re.compile(
    rf"\b(?:{_NOUN}|(?:correct|right|best) one)[*_]{{0,2}} ?(?:is|:|would be|must be|should be)[*_:]{{0,3}}\s{{0,3}}"
    rf"(?:(?:therefore|thus|indeed|clearly|the|{_NOUN}) ){{0,3}}"
    rf"|\b(?:choose|select|pick|go with) (?:{_NOUN} )?",
    re.IGNORECASE,
)
"""Words before a letter."""
_LETTER = re.compile(
    r"[*_`$\"'\u201c\u2018]{0,4}(?:\\\(|\\\[)?\s?(?:\\(?:text|mathrm|mathbf|textbf)\s?\{)?"
    r"(?:[(\[]\s?([A-Ja-j])\s?[)\]]"
    r"|([A-Ja-j])(?=[)\].,:;!*_`$}\"'\u201d\u2019\\]|\s*$|\s*\n| (?:because|since|as|is|with|which|and not)\b"
    r"| [-\u2013\u2014(])"
    r"|([B-HJ])(?=\s(?!or\b|and\b)))"
)
"""A letter with its markup. Without markup, `A`, `I` and lower-case letters count only where no word follows."""
_NAMED = re.compile(rf"^{_NOUN}[ :]+", re.IGNORECASE)
_CONFIRMED = re.compile(
    rf"(?:\b(?i:{_NOUN}) [*_]{{0,2}}\(?([A-Ja-j])\)?|(?<![\w(])[*_]{{0,2}}\(([A-J])\))[*_]{{0,2}} "
    r"(?i:is|seems) (?i:(?:the|therefore|thus|most likely|clearly) ){0,3}(?i:correct|right|answer|best)"
)
"""`Option B is correct`, `(B) is the answer`."""
_ALONE = re.compile(r"^[ \t]*[*_]{0,2}[(\[]?([A-J])[)\]]?\.?[*_]{0,2}\.?[ \t]*$", re.MULTILINE)
"""A line with only a letter."""


class Extractor(Enum):
    """Kind of answer."""

    math = "math"
    """A mathematical expression as written: numbers, LaTeX, tuples, intervals, sets, words (MATH)."""
    number = "number"
    """One number, also with currency, commas, a unit, a percent sign or more text (GSM8K)."""
    integer = "integer"
    """A whole number from 000 to 999 (AIME)."""
    letter = "letter"
    """The letter of a multiple-choice option (GPQA)."""


def extract_answer(text: str, extractor: Extractor = Extractor.math) -> str:
    r"""Extract the answer of a solution; an empty string if there is none. No input raises; the time is linear.

    The last occurrence of the first of these is used: a complete `\boxed{...}`, `answer is ...`, `#### ...`, any number
    (for `number` and `integer` first that of an equation in the last line). Of letters the last statement of any form
    is used. A text that ends inside a box has no answer, as the numbers before the box are not it.

    Args:
        text: The written solution.
        extractor: Kind of answer.
    """
    match extractor:
        case Extractor.math:
            return _math(text)
        case Extractor.number:
            return _number(text)
        case Extractor.integer:
            return _integer(text)
        case Extractor.letter:
            return last_choice(text)


def _math(text: str) -> str:
    answer = boxed(text) or _plain(stated(text)) or after_hashes(text)
    return answer or ("" if cut_off(text) else _last_number(text))


def _plain(statement: str) -> str:
    """Formula or single number in a stated sentence; otherwise the sentence, as the answer may be a word."""
    if len(statement.split()) < 3 or read_quantity(normal(statement)) is not None:
        return statement
    if inside := formulas(statement):
        return inside[-1]
    numbers = [match.group() for match in _NUMBER.finditer(statement)]
    return numbers[0] if len(numbers) == 1 and "\\" not in statement.replace("\\$", "") else statement


def _number(text: str) -> str:
    if boxes(text):
        return _in_statement(boxed(text))
    for statement in (stated(text), after_hashes(text)):
        if statement and (number := _in_statement(statement)):
            return number
    return "" if cut_off(text) else _result(text[-TAIL:].translate(_MINUS).rstrip())


def _result(text: str) -> str:
    """Result of the last equation in the last line (`9 + 6 = 15 of the 24 litres`), otherwise the last number."""
    equals = text.rfind("=", text.rfind("\n") + 1)
    match = _NUMBER.search(text, equals) if equals >= 0 else None
    if match is None:
        for match in _NUMBER.finditer(text):  # noqa: B007 - only the last match is used
            pass
    return "" if match is None else _scaled(text, match)


def _in_statement(statement: str) -> str:
    """Number of a statement: the whole, its bold part, the part after `=`, its beginning, or the last number."""
    bold = _BOLD.findall(statement)
    for part in (statement, *reversed(bold)):
        quantity = read_quantity(normal(part))
        if quantity is not None:
            return _written(quantity.value) + "%" * quantity.is_percent
    text = normal(statement)
    text = text[text.rfind("=") + 1 :].strip() if re.search(r"=[^=]*\d", text) else text
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return ""
    chosen = numbers[0] if numbers[0].start() == 0 else numbers[-1]
    return _scaled(text, chosen)


def _scaled(text: str, number: re.Match[str]) -> str:
    """A number multiplied by the word after it: `1.5 million` gives 1500000."""
    scale = _SCALED.match(text, number.end())
    quantity = read_quantity(normal(number.group()))
    if scale is None or quantity is None:
        return number.group()
    return _written(quantity.value * _SCALES[scale.group(1).lower()])


def _written(value: Fraction) -> str:
    """A value in plain digits, as a fraction if it takes more than twelve decimal places."""
    if value.denominator == 1:
        return str(value.numerator)
    whole, rest = divmod(abs(value) * 10**12, 10**12)
    if rest.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    return f"{'-' if value < 0 else ''}{whole}.{int(rest):012}".rstrip("0")


def _last_number(text: str) -> str:
    last = ""
    for match in _NUMBER.finditer(text[-TAIL:]):
        last = match.group()
    return last


def _integer(text: str) -> str:
    quantity = read_quantity(normal(_number(text)))
    if quantity is None or quantity.value.denominator != 1 or not 0 <= quantity.value <= 999:
        return ""
    return str(quantity.value.numerator)


def choice(text: str) -> str:
    """The letter of a `normal` answer such as `(B)`, `B.` or `B) 12 cm`, in upper case; empty if there is none."""
    match = re.match(r"\(?([A-Ja-j])(?:\)|[.:](?:\s|$)|$)", text)
    return match.group(1).upper() if match else ""


def last_choice(text: str) -> str:
    r"""The last letter that a solution states: `\boxed{B}`, `the answer is (B)`, `option B is correct`, a line `B`.

    A lower-case letter counts in parentheses, in a box, or before punctuation; `the answer is a proton` states no
    letter.
    """
    letters = [(box.end, letter) for box in boxes(text) if (letter := choice(_NAMED.sub("", normal(box.content))))]
    leads = (_LETTER.match(text, lead.end()) for lead in _LEAD.finditer(text))
    matches = [m for m in leads if m is not None]
    matches += [*_CONFIRMED.finditer(text), *_ALONE.finditer(text)]
    letters += [(m.end(), next(group for group in m.groups() if group).upper()) for m in matches]
    return max(letters, default=(0, ""))[1]
