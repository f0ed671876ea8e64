"""Exact reading and comparison of plain numbers, fractions, percentages and units, without sympy."""

import re
from fractions import Fraction
from typing import NamedTuple

MAX_CHARACTERS = 2000
"""Longest text that is read as an answer; benchmark answers are much shorter."""

INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
"""Digits, with or without commas between thousands (a regular expression)."""


class Quantity(NamedTuple):
    """A number: its value, whether it is written as a percentage, and its unit in lower case."""

    value: Fraction
    is_percent: bool
    unit: str


_REWRITES = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\\[!,;: ]|(?<!\\)~"), ""),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?<=\d)\{,\}(?=\d{3})"), ","),
    (re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|°"), " degrees "),
    (re.compile(r"\\?\$|\\\(|\\\)|\\\[|\\\]|\*\*"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile("[\u2212\u2013]"), "-"),
    (re.compile(r"\s+"), " "),
)
_UNSIGNED = rf"(?:{INTEGER}(?:\.\d*)?|\.\d+)"
_UNIT = (
    r"(?: ?(?:[ckm]?m|km/h|mph|k?g|mg|lbs?|oz|ft|in|mi|yd|m?l|hrs?|h|s|min|[ap]m)\b| [A-Za-z][A-Za-z.'-]{2,})"
    r"(?: ?\^ ?\{?[23]\}?|[²³])?(?: [A-Za-z][A-Za-z./'-]*)*"
)
"""A short unit, or a word of at least three letters, as `6 xy` is a product."""
_QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:"
    rf"(?:(?P<whole>\d+)\s*)?\\frac\s*(?:\{{\s*(?P<fsign>-?)(?P<num>{_UNSIGNED})\s*\}}|(?P<num1>\d))"
    rf"\s*(?:\{{\s*(?P<den>{_UNSIGNED})\s*\}}|(?P<den1>\d))"
    rf"|(?:(?P<mixed>\d+) )?(?P<left>{_UNSIGNED})(?:\s*/\s*(?P<right>{_UNSIGNED}))?(?:[eE](?P<exp>[-+]?\d{{1,3}}))?"
    rf")\s*(?P<percent>%|percent\b)?(?P<unit>(?:{_UNIT})?)"
)
_SCALES = frozenset({"hundred", "thousand", "million", "billion", "trillion", "dozen", "squared", "cubed"})
_OPERATORS = frozenset({"sqrt", "sin", "cos", "tan", "log", "exp", "mod", "or", "and", "to"})


def normal(text: str) -> str:
    r"""Remove parts that do not change an answer's meaning: spacing, dollar signs, `\text`, a full stop."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text[:-1].rstrip() if text.endswith(".") else text


def read_quantity(text: str) -> Quantity | None:
    """Read a `normal` text as a plain number, fraction or mixed number; None if it is anything else."""
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        return None
    unit = match["unit"].strip().lower()
    if not (_SCALES | _OPERATORS).isdisjoint(unit.split()):
        return None
    numerator = match["num"] or match["num1"] or match["left"]
    denominator = match["den"] or match["den1"] or match["right"] or "1"
    try:
        value = Fraction(numerator.replace(",", "")) / Fraction(denominator.replace(",", ""))
    except (ZeroDivisionError, ValueError):  # ValueError: more than 4,300 digits
        return None
    if match["fsign"]:
        value = -value
    value = (value + int(match["whole"] or match["mixed"] or 0)) * Fraction(10) ** int(match["exp"] or 0)
    return Quantity(-value if match["sign"] == "-" else value, match["percent"] is not None, unit)


def same_quantity(gold: Quantity, predicted: Quantity) -> bool:
    """True for equal values whose units do not contradict each other; 25 % equals a gold answer of 25 or of 0.25."""
    (expected, expected_percent, unit), (got, got_percent, other_unit) = gold, predicted
    if unit and other_unit and unit[0] != other_unit[0]:  # hr and hours agree, hours and minutes do not
        return False
    if _close(expected, got):
        return True
    if expected_percent == got_percent:
        return False
    return _close(expected / 100, got) if expected_percent else _close(expected, got / 100)


def _close(a: Fraction, b: Fraction) -> bool:
    """True if two values are equal exactly or rounded to six decimal places (as in math-verify)."""
    return a == b or round(a, 6) == round(b, 6) != 0
