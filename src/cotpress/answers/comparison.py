"""Comparison of two answers: numbers exactly, words and other notations as text, mathematics by math-verify."""

import functools
import importlib.metadata
import re
from fractions import Fraction

from cotpress.answers.reading import Quantity, normal, read
from cotpress.answers.verifier import in_unit, symbolically_equal

MAX_CHARACTERS, MAX_GROUPS = 2000, 100
"""Longest text that is read as an answer, and most braces of one: deeper nesting exceeds the time limit."""
# fmt: off
_CHOICE = re.compile(
    r"(?:(?i:option|choice|answer):? )?[*\"'`(\[]{0,3}([A-Ja-j])(?![)\]]?(?:,? ?(?:or|and|&)|,) ?\(?[A-Ja-j]\b)"
    r"(?:[)\].:](?=\W|$)|[;!*\"'`<]|$| -|,? (?:not|and not|is|as|because|since)\b)")
_BASE = re.compile(r"\(?(?=.*\d\w*_)0*([0-9A-Za-z]+)\)?_\w+")
_TIME = re.compile(r"(?i)(?=.*(?::|m\b|clock))(\d{1,2})(?: ?: ?(\d\d))?(?: ?: ?(\d\d))? ?(?:([ap])\.? ?m\.?|o'clock)?")
_RATIO = re.compile(r"\d+(?:\.\d+)?(?: ?(?::| to ) ?\d+(?:\.\d+)?)+")
_MONTH = re.compile(
    r"(?i)\b(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t|tember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\b")
_NAME = re.compile(r"(?!\d)(?:\\?[A-Za-z]|[_'|()+,:]|\d(?!\\|[A-Za-z]))+|(?:\\[A-Za-z]++|[^A-Za-z])*")
"""Left side of a definition (`x`, `f(x)`, `m+n`, `Area`) or of a computation, not of an equation to be solved."""
_COMPOUND = re.compile(r"[\d.,]+ ?[A-Za-z]+(?: [\d.,]+ ?[A-Za-z]+)+")
_BRACKETS = re.compile(r"[(\[{][^()\[\]{}]*[)\]}]")
_SEPARATOR = re.compile(r"\s*[,;](?!\d{3}(?!\d))\s*(?:(?:and|or)\b)?\s*|\s*\b(?:and|or)\b\s*")
_TEXT = re.compile(
    r"(?<!_)\d\s+[\d.]|\d\.\d*\.|\b0[xb]|(?<![\\A-Za-z])[A-Za-z]\[|==|\+\+|:|^\w*\d\w*_|[#@\"`?;%$]"
    r"|(?<![\\A-Za-z])(?:[A-Za-z]{4,}|[A-Z]{2,}|[A-Za-z]{2,} +[A-Za-z]{2,})|^-?\d+(?: ?- ?\d+)+$|\d ?/ ?\d+ ?/"
    r"|^(?![b-df-hj-np-tv-z]+$|[a-d]{2}$|[Aa]$)[A-Za-z]{2,3}$")
"""Words, orders of letters, dates, scores, codes and garbage: nothing that math-verify may multiply or subtract."""
# fmt: on


def is_equal(gold: str, predicted: str) -> bool:
    """True if a predicted answer means the same as the gold answer; False as well if the comparison takes too long.

    Safe in threads and in forked processes; no input raises an exception.

    Raises:
        CotpressError: math-verify cannot be started at all, so that no verdict would be valid.
    """
    if max(len(gold), len(predicted)) > MAX_CHARACTERS:
        return gold.strip() == predicted.strip()
    gold, predicted = normal(gold), normal(predicted)
    if not gold or not predicted or predicted.count("{") > MAX_GROUPS:
        return False
    if choice(gold) and (len(gold) <= 3 or choice(predicted)):
        return choice(predicted) == choice(gold)
    return _same(gold, predicted)


def choice(text: str) -> str:
    """The letter of a `normal` answer such as `(B)`, `B because` or `B) 12 cm`, in upper case; empty for `A or B`."""
    return match[1].upper() if (match := _CHOICE.match(text)) else ""


def forms(text: str) -> list[str]:
    """A time, ratio or date in one notation, then in shorter or other ones; empty for any other `normal` text."""
    if _MONTH.search(text) and re.fullmatch(r"(?:[\d\s,.]|the|of)*", _MONTH.sub("", text)) and re.search(r"\d", text):
        return [" ".join(sorted(_words(_MONTH.sub(lambda m: m[1][:3], text))))]
    result = []
    if time := _TIME.fullmatch(text):
        (hour, *rest), half = (int(n or 0) for n in time.groups()[:3]), (time[4] or "").lower()
        result = [f"{hour}{rest}{half}", f"{hour}{rest}", f"{hour % 12 + 12 * (half == 'p')}{rest}"][: 3 if half else 1]
    if _RATIO.fullmatch(text):
        first, *others = (Fraction(n) for n in re.findall(r"[\d.]+", text))
        result += [":".join(str(n / first) for n in others)] if first else []
    return result


def _same(gold: str, predicted: str) -> bool:
    if gold == predicted or ((base := _BASE.fullmatch(gold)) and predicted == base[1]):  # the question names the base
        return True
    if (a := forms(gold)) or (b := forms(predicted)):
        return bool(a and (b := forms(predicted))) and (a[0] in b or b[0] in a)
    if r"\approx" in gold + predicted:
        sides = [[side.strip() for side in text.split(r"\approx")] for text in (gold, predicted)]
        return any(_same(x, y) for x in sides[0] for y in sides[1])
    if len(members := _members(gold)) == len(others := _members(predicted)) > 1:
        for member in members:
            if (same := next((other for other in others if _same(member, other)), None)) is None:
                return False
            others.remove(same)
        return True
    (name, value), (other, other_value) = _definition(gold), _definition(predicted)
    if name == other != "":
        return _same(value, other_value)
    if not (name and other) and (name or other):
        return _NAME.fullmatch(name or other) is not None and _same(value, other_value)
    return _same_quantity(_total(gold), _total(predicted))


def _total(text: str) -> Quantity:
    """Read a text; quantities side by side (`1 hour 15 minutes`) are added in the unit of the last one."""
    if not _COMPOUND.fullmatch(text):
        return read(text)
    parts = [read(part) for part in re.findall(r"[\d.,]+ ?[A-Za-z]+", text)]
    values = [part.value and in_unit(parts[-1].unit, part.unit, part.value) for part in parts]
    known = [value for value in values if value is not None]
    if len(known) < len(parts) or "" in (units := {part.unit for part in parts}) or len(units) < len(parts):
        return read(text)
    return parts[-1]._replace(value=sum(known, Fraction(0)))


def _members(text: str) -> list[str]:
    r"""Members of a list or of a set `\{...\}` outside other brackets."""
    text = text[2:-2].strip() if re.fullmatch(r"\\\{[^{}]*\\\}", text) else text
    outside, before = text, ""
    while outside != before:
        outside, before = _BRACKETS.sub(lambda m: "." * len(m[0]), outside), outside
    cuts = [0, *(cut for match in _SEPARATOR.finditer(outside) for cut in match.span()), len(text)]
    return [part for start, end in zip(cuts[::2], cuts[1::2], strict=True) if (part := text[start:end].strip())]


def _definition(text: str) -> tuple[str, str]:
    """The texts left (compact) and right of the last `=`; the left one is empty if there is none, and for a list."""
    *sides, value = re.split(r"(?<![<>!\\=])=(?!=)", text) if len(_members(text)) == 1 else [text]
    return re.sub(r"[\s{}]|\\angle", "", "=".join(sides)), value.strip()


def _same_quantity(gold: Quantity, predicted: Quantity) -> bool:
    """True for equal numbers, or equal formulas or texts, in agreeing units."""
    if gold.value is None or predicted.value is None:
        return _same_formula(gold, predicted)
    if (value := in_unit(gold.unit, predicted.unit, predicted.value)) is None:
        return False
    pairs = [(gold.value * gold.scale, value * predicted.scale)]
    if gold.scale != predicted.scale and not predicted.scale < 1 > abs(gold.value):  # 3 dozen is 3; 0.28 is not 0.28 %
        pairs.append((gold.value, value))
    return any(_close(a, b) for a, b in pairs)


def _close(a: Fraction, b: Fraction) -> bool:
    """True for equal numbers, and for a decimal that rounds a fraction without an end at the sixth digit or later."""
    ends = [pow(10, number.denominator.bit_length(), number.denominator) == 0 for number in (a, b)]
    return a == b or (ends[0] != ends[1] and abs(a - b) <= max(abs(a), abs(b)) / 10**6)


def _same_formula(gold: Quantity, predicted: Quantity) -> bool:
    if gold.value is not None and re.fullmatch(r"-?\d+,\d+", predicted.formula):  # a decimal comma: no list is a number
        return _same_quantity(gold, read(predicted.formula.replace(",", ".")))
    texts = [_TEXT.search(re.sub(r"\\(?:begin|end) ?\{\w+\}", "", side.formula)) for side in (gold, predicted)]
    if any(texts):
        return all(texts) and not gold.unit + predicted.unit and _words(gold.formula) == _words(predicted.formula)
    if gold.scale != predicted.scale or in_unit(gold.unit, predicted.unit, Fraction(1)) != 1:
        return False
    i = re.compile(r"(?<![\\A-Za-z])i(?![A-Za-z])")  # the imaginary unit
    return symbolically_equal(i.sub("I", gold.formula), i.sub("I", predicted.formula))


def _words(text: str) -> list[str]:
    """Words and signs of a text without case, articles and punctuation; only the first one of `Yes, because`."""
    text = re.sub(r"\\[A-Za-z]+", " ", text).casefold()
    words = [w for w in re.findall(r"\d+\.\d+|\w+|[^\w\s.,!'\"(){}]", text) if w not in ("a", "an", "the", "of")]
    return words[:1] if words[:1] and words[0] in ("yes", "no", "true", "false") else words


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that decide on verdicts, part of an identity."""
    return {
        name: importlib.metadata.version(name) for name in ("math-verify", "latex2sympy2_extended", "sympy", "pint")
    }
