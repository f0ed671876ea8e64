"""Comparison of two answers: numbers exactly, words and other notations as text, mathematics by math-verify."""

import importlib.metadata
import re
from fractions import Fraction

from cotpress.answers.reading import Quantity, is_unit, normal, read_quantity
from cotpress.answers.verifier import in_unit, symbolically_equal

MAX_CHARACTERS, MAX_GROUPS = 2000, 100
"""Longest text that is read as an answer, and most braces of one: deeper nesting exceeds the time limit."""
_CHOICE = re.compile(
    r"(?:(?i:option|choice|answer):? )?\(?([A-Ja-j])(?:\)|[.:](?=\s|$)|$)(?!\s*(?:,|and|or|&)\s*\(?[A-Ja-j]\b)"
)
_BASE = re.compile(r"\(?(?=.*\d\w*_)0*([0-9A-Za-z]+)\)?_\w+")
_TIME = re.compile(r"(?i)(?=.*(?::|m\b|clock))(\d{1,2})(?: ?: ?(\d\d))?(?: ?: ?(\d\d))? ?(?:([ap])\.? ?m\.?|o'clock)?")
_RATIO = re.compile(r"\d+(?:\.\d+)?(?: ?(?::| to ) ?\d+(?:\.\d+)?)+")
_NAME = re.compile(r"(?!\d)(?:\\?[A-Za-z]+|[\s_'{}|()+,:]|\d(?!\s*[\\A-Za-z]))+")
"""Left side of a definition (`x`, `f(x)`, `m+n`, `P(A)`, `Area`), not of an equation that has to be solved."""
_TOKEN = re.compile(r"[(\[{]|\\begin|[)\]}]|\\end|\s*[,;]\s*(?:(?:and|or)\b)?\s*|\s*\b(?:and|or)\b\s*")
_TEXT = re.compile(
    r"(?<!_)\d\s+[\d.]|\d\.\d*\.|\b0[xb]|(?<![\\A-Za-z])[A-Za-z]\[|==|\+\+|:|^\w*\d\w*_|[#@\"`?;]"
    r"|(?<![\\A-Za-z])(?:[A-Za-z]{4,}|[A-Z]{2,}|[A-Za-z]{2,} +[A-Za-z]{2,})|^-?\d+(?: ?- ?\d+)+$|\d ?/ ?\d+ ?/|[%$]."
    r"|^(?![b-df-hj-np-tv-z]+$|[a-d]{2}$|[Aa]$)[A-Za-z]{2,3}$"
)
"""Words, orders of letters, dates, scores, codes and garbage: nothing that math-verify may multiply or subtract."""
_MONTH = re.compile(r"(?i)\b(jan|feb|mar|apr|may|june?|july?|aug|sep|oct|nov|dec)[a-z]*\b\.?")
_UNIT_AFTER = re.compile(r"(.*(?:[\d)}\]!]|\\pi|%)) ?((?:(?<![\\A-Za-z])[A-Za-z]{2}|[mgslLNJWVAK]$)[^\\=(),]*)")


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
    """The letter of a `normal` answer such as `(B)`, `B.` or `B) 12 cm`, in upper case; empty if there is none."""
    return match[1].upper() if (match := _CHOICE.match(text)) else ""


def _same(gold: str, predicted: str) -> bool:
    if gold == predicted:
        return True
    texts = gold, predicted
    if all(_MONTH.search(text) and re.search(r"\d", text) for text in texts):
        return _words(gold) == _words(predicted)
    for notation in (_same_time, _same_definition):
        if (verdict := notation(gold, predicted)) is not None:
            return verdict
    if (base := _BASE.fullmatch(gold)) and "_" not in predicted:
        return base[1] == predicted  # the question names the base
    expected, got = read_quantity(gold), read_quantity(predicted)
    if expected and got:
        return _same_quantity(expected, got)
    elements, others = _elements(gold), _elements(predicted)
    if len(elements) == len(others) > 1:
        for a in elements:
            others = others[: (i := next((i for i, b in enumerate(others) if _same(a, b)), 999))] + others[i + 1 :]
        return not others
    if expected and re.fullmatch(r"-?\d+,\d+", predicted):  # a decimal comma, as no list equals a number
        return _same(gold, predicted.replace(",", "."))
    (gold, unit), (predicted, other_unit) = _split_unit(gold), _split_unit(predicted)
    words = [_TEXT.search(re.sub(r"\\(?:begin|end) ?\{\w+\}", "", text)) for text in (gold, predicted)]
    if any(words):
        return all(words) and not unit + other_unit and _words(gold) == _words(predicted)
    gold, predicted = (re.sub(r"(?<![\\A-Za-z])i(?![A-Za-z])", "I", text) for text in (gold, predicted))  # imaginary
    return _converted(unit, other_unit, 1.0) == 1 and symbolically_equal(gold, predicted)


def _same_time(gold: str, predicted: str) -> bool | None:
    """Compare times of day and ratios; None if neither answer is one."""
    times, ratios = ([notation.fullmatch(text) for text in (gold, predicted)] for notation in (_TIME, _RATIO))
    if times[0] and times[1]:
        halves = [(time[4] or "").lower() for time in times if time]
        (h, *rest), (k, *others) = ([int(n or 0) for n in time.groups()[:3]] for time in times if time)
        clock = [n % 12 + 12 * (half == "p") if half else n for n, half in zip((h, k), halves, strict=True)]
        return rest == others and (clock[0] == clock[1] or (h == k and not all(halves)))
    if all(ratios):
        (a, *parts), (b, *more) = ([Fraction(n) for n in re.findall(r"[\d.]+", text)] for text in (gold, predicted))
        return len(parts) == len(more) and all(a * y == b * x for x, y in zip(parts, more, strict=True))
    return False if any(times) or any(ratios) else None


def _same_definition(gold: str, predicted: str) -> bool | None:
    """Compare either side of an approximation, or the right sides of definitions; None for equations to be solved."""
    texts = gold, predicted
    sides = [re.split(r" ?\\approx ?", text) for text in texts]
    if len(sides[0] + sides[1]) > 2:
        return any(_same(a, b) for a in sides[0] for b in sides[1])
    equations = [re.split(r"(?<![<>!\\=])=(?!=)", text) for text in texts]
    names = [parts[0].strip() if len(parts) > 1 else "" for parts in equations]
    if any(name and not _NAME.fullmatch(name) and re.search(r"(?<![\\A-Za-z])[A-Za-z]", name) for name in names):
        return None if all(names) else False
    compact = [re.sub(r"[\s{}]|\\angle", "", name) for name in names]
    if not any(names) or (all(names) and compact[0] != compact[1]) or any(len(_elements(t)) > 1 for t in texts):
        return None
    return _same(equations[0][-1].strip(), equations[1][-1].strip())


def _elements(text: str) -> list[str]:
    r"""Members of a list or of a set `\{...\}` outside other brackets."""
    text = text[2:-2].strip() if re.fullmatch(r"\\\{[^{}]*\\\}", text) else text
    depth, start, parts = 0, 0, []
    for match in _TOKEN.finditer(text):
        depth += (match[0] in ("(", "[", "{", r"\begin")) - (match[0] in (")", "]", "}", r"\end"))
        separates = depth == 0 and (match[0].strip() or " ") in (",", ";", "and", "or", ",and", ", and", ", or")
        if separates and not re.fullmatch(r",\d{3}(?!\d)", text[match.start() : match.end() + 3]):
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _same_quantity(gold: Quantity, predicted: Quantity) -> bool:
    """True for equal values in agreeing units; a percent sign that only one has may mean a hundredth."""
    a, b = gold, predicted
    if (dozens := a.unit.startswith("dozen")) != b.unit.startswith("dozen"):  # the question may ask for either
        a, b = (a, b) if dozens else (b, a)
        a = a._replace(unit=a.unit.removeprefix("dozen").strip())
        return any(_same_quantity(a._replace(value=a.value * factor), b) for factor in (1, 12))
    if a.unit and b.unit and max(abs(a.value), abs(b.value)) < 10**300:  # within the range of floats
        value = _converted(a.unit, b.unit, float(b.value))
        if value != float(b.value):
            return value is not None and abs(float(a.value) - value) <= 1e-6 * abs(value)
    close = abs(a.value - b.value) < max(a.step, b.step) or a.value == b.value  # rounded or cut off
    if a.percent == b.percent:
        return close
    bare, percent = (b, a) if a.percent else (a, b)
    hundredth = percent._replace(value=percent.value / 100, step=percent.step / 100, percent=False)
    return (close and (gold.percent or bare.value >= 1)) or _same_quantity(bare, hundredth)


def _converted(unit: str, other: str, value: float) -> float | None:
    """A value of the second unit in the first one; None if they differ in kind. A missing unit agrees with any."""
    if not unit or not other or unit == other:
        return value
    pairs = [[re.sub(r"\\cdot", "*", re.sub(r"\^ ?\{(.)\}", r"^\1", u)) for u in (unit, other)]]
    pairs.append([u.lower() for u in pairs[0]])
    if (result := next((v for a, b in pairs if (v := in_unit(a, b, value)) is not None), None)) is not None:
        return result
    known = all(any(in_unit(pair[i], pair[i]) for pair in pairs) for i in (0, 1))
    nouns = [{word.rstrip("s") for word in _words(u)} for u in (unit, other)]
    return value if not known and (nouns[0] <= nouns[1] or nouns[1] <= nouns[0]) else None


def _split_unit(text: str) -> tuple[str, str]:
    """A formula and the unit after it, if there is one."""
    match = _UNIT_AFTER.fullmatch(text)
    return (
        (match[1], match[2])
        if match and is_unit(match[2], attached=not match[0][match.end(1)].isspace())
        else (text, "")
    )


def _words(text: str) -> list[str]:
    """Words and signs of a text without case, articles and punctuation; those of a date in one order."""
    text = re.sub(r"\\[A-Za-z]+", " ", text)
    dated = _MONTH.search(text) and re.search(r"\d", text)
    text = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", _MONTH.sub(lambda m: m[1][:3], text)) if dated else text
    words = [w for w in re.findall(r"\d+\.\d+|\w+|[^\w\s.,!'\"(){}]", text.casefold()) if w not in ("a", "an", "the")]
    words = words[:1] if words[:1] and words[0] in ("yes", "no", "true", "false") else words
    return sorted(words) if dated else words


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide on verdicts, part of an identity."""
    return {
        name: importlib.metadata.version(name) for name in ("math-verify", "latex2sympy2_extended", "sympy", "pint")
    }
