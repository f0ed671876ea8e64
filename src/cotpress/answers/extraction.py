"""The final answer in a solution, read as the kind of answer that the question has.

Letters of multiple-choice answers: the last one that a text states, never a letter that only begins a word.
"""

import re
from enum import Enum
from fractions import Fraction

from cotpress.answers.quantities import INTEGER, normal, read_quantity
from cotpress.answers.statements import TAIL, after_hashes, boxed, boxes, cut_off, formulas, stated

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


_NUMBER = re.compile(rf"(?<![\w.,])-?\$?(?:{INTEGER}(?:\.\d+)?|\.\d+)(?:/\d+)?%?|(?:{INTEGER}(?:\.\d+)?|\.\d+)%?")
_SCALED = re.compile(r" ?(hundred|thousand|million|billion|trillion|dozen)\b", re.IGNORECASE)
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MINUS = str.maketrans("\u2212\u2013", "--")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")


class Extractor(Enum):
    """What kind of answer is looked for."""

    math = "math"
    """Anything mathematical, as it is written: numbers, LaTeX, tuples, intervals, sets, words (MATH)."""
    number = "number"
    """One number, whatever stands around it: currency, commas, a unit, a percent sign, more text (GSM8K)."""
    integer = "integer"
    """A whole number from 000 to 999 (AIME)."""
    letter = "letter"
    """The letter of a multiple-choice option (GPQA)."""


def extract_answer(text: str, extractor: Extractor = Extractor.math) -> str:
    r"""The answer that a solution states, or an empty string. Never raises, and is linear in the length of the text.

    Looked for in this order, the last occurrence of each: a complete `\boxed{...}`, `answer is ...`, `#### ...`,
    any number (for `number` and `integer` that of an equation in the last line first). Of letters, whatever is stated
    last. A text that was cut off inside its box states no answer: whatever number stood before it was not it.

    Args:
        text: The written solution.
        extractor: What kind of answer is looked for.
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
    found = boxed(text) or _plain(stated(text)) or after_hashes(text)
    return found or ("" if cut_off(text) else _last_number(text))


def _plain(statement: str) -> str:
    """The formula or the one number that a stated sentence is about; else the sentence, for it may be a word."""
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
        if statement and (found := _in_statement(statement)):
            return found
    return "" if cut_off(text) else _result(text[-TAIL:].translate(_MINUS).rstrip())


def _result(text: str) -> str:
    """What the last equation of the last line comes to (`9 + 6 = 15 of the 24 litres`), else the last number."""
    equals = text.rfind("=", text.rfind("\n") + 1)
    found = _NUMBER.search(text, equals) if equals >= 0 else None
    if found is None:
        for found in _NUMBER.finditer(text):  # noqa: B007 - the last match is what is wanted
            pass
    return "" if found is None else _scaled(text, found)


def _in_statement(statement: str) -> str:
    """The number that a statement gives: all of it, its bold part, what follows `=`, its beginning, or the last."""
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
    """A number with the word behind it worked in: `1.5 million` is 1500000."""
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
