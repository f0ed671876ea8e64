"""Comparison of two answers: numbers exactly, words and other notations as text, mathematics by math-verify."""

import functools
import hashlib
import importlib.metadata
import re
from fractions import Fraction
from pathlib import Path

from cotpress.answers.reading import Quantity, is_unit, normal, read_quantity
from cotpress.answers.verifier import in_unit, symbolically_equal

MAX_CHARACTERS = 2000
"""Longest text that is read as an answer; benchmark answers are much shorter."""
MAX_GROUPS = 100
"""Most braces of an answer that is compared symbolically; parsing deeper nesting exceeds the time limit."""
_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "pint")
_CHOICE = re.compile(r"\(?([A-Ja-j])(?:\)|[.:](?=\s|$)|$)(?!\s*(?:,|and|or|&)\s*\(?[A-Ja-j]\b)")
_BASE = re.compile(r"\(?(?=.*[\dA-Z])([0-9A-Za-z]+)\)? ?_ ?\{? ?(\d+|[a-z]{3,}) ?\}?")
_TIME = re.compile(r"(\d{1,2})(?: ?: ?(\d\d))?(?: ?: ?(\d\d))? ?(?:([ap])\.? ?m\b\.?|o'clock)?", re.I)
_RATIO = re.compile(r"\d+(?:\.\d+)?(?: ?(?::| to ) ?\d+(?:\.\d+)?)+")
_NAME = re.compile(r"(?!\d)(?:\\?[A-Za-z]+|[\s_'{}|()+,:]|\d(?!\s*[\\A-Za-z]))+")
"""Left side of a definition (`x`, `f(x)`, `m+n`, `P(A)`, `Area`), not of an equation that has to be solved."""
_SEPARATOR = re.compile(r"\s*(?:[,;]\s*(?:and|or)?|\b(?:and|or))\b\s*|\s*[,;]\s*")
_TEXT = re.compile(
    r"(?<!_)\d\s+[\d.]|\d\.\d*\.|\b0[xb]|(?<![\\A-Za-z])[A-Za-z]\[|==|\+\+|:|[\dA-Z] ?_|[#@\"`?;]"
    r"|(?<![\\A-Za-z])(?:[A-Za-z]{4,}|[A-Z]{2,}|[A-Za-z]{2,} +[A-Za-z]{2,})"
    r"|^-?\d+(?: ?- ?\d+)+$|\d ?/ ?\d+ ?/|[%$].|^(?![b-df-hj-np-tv-z]+$|[a-d]{2}$|[Aa]$)[A-Za-z]{2,3}$"
)
"""Words, orders of letters, dates, scores, codes and garbage: nothing that math-verify may multiply or subtract."""
_MONTH = re.compile(r"(?i)\b(jan|feb|mar|apr|may|june?|july?|aug|sep|oct|nov|dec)[a-z]*\b\.?")
_UNIT_AFTER = re.compile(r"(.*(?:[\d)}\]!]|\\pi))( ?(?<![\\A-Za-z])[A-Za-z]{2}[^\\=(),]*)")


def is_equal(gold: str, predicted: str) -> bool:
    """True if a predicted answer means the same as the gold answer.

    A comparison that takes longer than `verifier.TIMEOUT_S` counts as different. Safe in threads and in forked
    processes; no input raises an exception.

    Args:
        gold: The reference answer; it determines how the prediction is read (a number, a choice letter, LaTeX).
        predicted: An answer from `extract_answer`.

    Raises:
        CotpressError: math-verify cannot be started at all, so that no verdict would be valid.
    """
    if max(len(gold), len(predicted)) > MAX_CHARACTERS:
        return gold.strip() == predicted.strip()
    gold, predicted = normal(gold), normal(predicted)
    if not gold or not predicted or predicted.count("{") > MAX_GROUPS:
        return False
    expected = _CHOICE.match(gold)
    if expected and (len(gold) <= 3 or choice(predicted)):
        return choice(predicted) == expected[1].upper()
    return _same(gold, predicted)


def choice(text: str) -> str:
    """The letter of a `normal` answer such as `(B)`, `B.` or `B) 12 cm`, in upper case; empty if there is none."""
    match = _CHOICE.match(text)
    return match[1].upper() if match else ""


def _same(gold: str, predicted: str) -> bool:
    if gold == predicted:
        return True
    if all(_MONTH.search(text) and re.search(r"\d", text) for text in (gold, predicted)):
        return _words(gold) == _words(predicted)
    for notation in (_same_base, _same_time):
        if (verdict := notation(gold, predicted)) is not None:
            return verdict
    sides = [re.split(r" ?\\approx ?", text) for text in (gold, predicted)]
    if max(map(len, sides)) > 1:
        return any(_same(a, b) for a in sides[0] for b in sides[1])
    if "=" in gold + predicted and (verdict := _same_definition(gold, predicted)) is not None:
        return verdict
    expected, got = read_quantity(gold), read_quantity(predicted)
    if expected is not None and got is not None:
        return _same_quantity(expected, got)
    lists = [_elements(text) for text in (gold, predicted)]
    if len(lists[0]) == len(lists[1]) > 1:
        return _same_elements(*lists)
    number = expected or got
    if number and re.fullmatch(r"-?\d+,\d+", other := predicted if expected else gold):  # a decimal comma
        return _close(number, read_quantity(other.replace(",", ".")) or number)
    (gold, unit), (predicted, other_unit) = _split_unit(gold, expected), _split_unit(predicted, got)
    texts = [_TEXT.search(re.sub(r"\\(?:begin|end) ?\{\w+\}", "", text)) for text in (gold, predicted)]
    if any(texts):
        return all(texts) and not unit + other_unit and _words(gold) == _words(predicted)
    gold, predicted = (re.sub(r"(?<![\\A-Za-z])i(?![A-Za-z])", "I", text) for text in (gold, predicted))  # imaginary
    return _converted(unit, other_unit, 1.0) == 1 and symbolically_equal(gold, predicted)


def _same_base(gold: str, predicted: str) -> bool | None:
    """Compare digits and base; a base that only the prediction has is evaluated. None without a base."""
    a, b = _BASE.fullmatch(gold), _BASE.fullmatch(predicted)
    if a and b:
        return a[1].lstrip("0").upper() == b[1].lstrip("0").upper() and a[2] == b[2]
    if a:
        return a[1] == predicted
    if b and (number := read_quantity(gold)) and b[2].isdigit() and 1 < int(b[2]) <= 36:
        try:
            return number.value == int(b[1], int(b[2]))
        except ValueError:
            return False
    return None


def _same_time(gold: str, predicted: str) -> bool | None:
    """Compare times of day and ratios; None if neither answer is one."""
    texts = (gold, predicted)
    times = [t if (t := _TIME.fullmatch(text)) and (t[2] or t[4] or "o'c" in text) else None for text in texts]
    if all(times):
        (h1, m1, s1, half), (h2, m2, s2, other) = (
            (int(t[1]), int(t[2] or 0), int(t[3] or 0), (t[4] or "").lower()) for t in times if t
        )
        hours = [{h % 12 + 12 * (x == "p")} if x else {h} for h, x in ((h1, half), (h2, other))]
        if not (half and other):
            hours = [{h1} | hours[0], {h2} | hours[1]]
        return (m1, s1) == (m2, s2) and not hours[0].isdisjoint(hours[1])
    ratios = [[Fraction(n) for n in re.findall(r"[\d.]+", t)] if _RATIO.fullmatch(t) else None for t in texts]
    if ratios[0] and ratios[1]:
        (a, *rest), (b, *others) = ratios[0], ratios[1]
        return len(rest) == len(others) and all(a * y == b * x for x, y in zip(rest, others, strict=True))
    if ratios[0] or ratios[1] or times[0] or times[1]:
        number = read_quantity(gold) or read_quantity(predicted)
        a, b = next((r for r in ratios if r and len(r) == 2), (Fraction(0), Fraction(0)))
        if number and "/" in (text := gold if read_quantity(gold) else predicted).replace(r"\frac", "/") and b:
            return number.value == a / b
        hour = times[0] or times[1]
        return bool(number and text and hour and int(hour[2] or 0) == 0 and number.value == int(hour[1]))
    return None


def _same_definition(gold: str, predicted: str) -> bool | None:
    """Compare right sides of definitions; None for equations that math-verify compares."""
    names, values = [], []
    for text in (gold, predicted):
        *left, value = re.split(r"(?<![<>!\\=])=(?!=)", text)
        name = left[0].strip() if left else ""
        if name and not _NAME.fullmatch(name) and re.search(r"(?<!\\)(?<![A-Za-z])[A-Za-z]", name):
            return None if "=" in gold and "=" in predicted else False
        names.append(re.sub(r"[\s{}]|\\angle", "", name))
        values.append(value.strip())
    if all(names) and names[0] != names[1] or (gold, predicted) == (values[0], values[1]):
        return None
    if len(_elements(gold)) > 1 or len(_elements(predicted)) > 1:
        return None
    return _same(values[0], values[1])


def _elements(text: str) -> list[str]:
    r"""Members of a list or of a set `\{...\}` outside other brackets."""
    if re.fullmatch(r"\\\{[^{}]*\\\}", text):
        text = text[2:-2].strip()
    depth, start, parts = 0, 0, []
    for match in re.finditer(r"[(\[{]|\\begin|[)\]}]|\\end|" + _SEPARATOR.pattern, text):
        if match[0] in ("(", "[", "{", r"\begin"):
            depth += 1
        elif match[0] in (")", "]", "}", r"\end"):
            depth -= 1
        elif depth == 0 and not re.fullmatch(r",\d{3}(?!\d)", text[match.start() : match.end() + 3]):
            parts.append(text[start : match.start()])
            start = match.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _same_elements(gold: list[str], predicted: list[str]) -> bool:
    """True if each member of one list equals a member of the other, in any order."""
    rest = list(predicted)
    for a in gold:
        match = next((b for b in rest if _same(a, b)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _same_quantity(gold: Quantity, predicted: Quantity) -> bool:
    """True for equal values in agreeing units; a percent sign that only one has may mean a hundredth."""
    a, b = gold, predicted
    if (dozens := a.unit.startswith("dozen")) != b.unit.startswith("dozen"):
        a, b = (a, b) if dozens else (b, a)
        a = a._replace(unit=a.unit.removeprefix("dozen").strip())
        return any(_same_quantity(a._replace(value=a.value * factor), b) for factor in (1, 12))
    value = _converted(a.unit, b.unit, float(b.value))
    if value != float(b.value):
        return value is not None and abs(float(a.value) - value) <= 1e-6 * abs(value)
    if a.percent == b.percent:
        return _close(a, b)
    bare, percent = (b, a) if a.percent else (a, b)
    same = _close(bare, percent) and (gold.percent or bare.value >= 1)
    return same or _close(bare, percent._replace(value=percent.value / 100, step=percent.step / 100))


def _close(a: Quantity, b: Quantity) -> bool:
    """True for equal values, and for a decimal number that is the other value cut off or rounded."""
    return a.value == b.value or abs(a.value - b.value) < max(a.step, b.step)


def _converted(unit: str, other: str, value: float) -> float | None:
    """A value of the second unit in the first one; None if they differ in kind. A missing unit agrees with any."""
    if not unit or not other or unit == other:
        return value
    unit, other = (re.sub(r"\\cdot", "*", re.sub(r"\^ ?\{(.)\}", r"^\1", u)) for u in (unit, other))
    for a, b in ((unit, other), (unit.lower(), other.lower())):
        if (result := in_unit(a, b, value)) is not None:
            return result
    known = [in_unit(u, u) or in_unit(u.lower(), u.lower()) for u in (unit, other)]
    nouns = [{word.rstrip("s") for word in _words(u)} for u in (unit, other)]
    return value if None in known and (nouns[0] <= nouns[1] or nouns[1] <= nouns[0]) else None


def _split_unit(text: str, quantity: Quantity | None) -> tuple[str, str]:
    """A formula and the unit after it."""
    if quantity:
        return text.removesuffix(quantity.unit).strip().removesuffix("%"), quantity.unit
    match = _UNIT_AFTER.fullmatch(text)
    if match and is_unit(match[2].strip(), attached=match[2][0] != " "):
        return match[1], match[2].strip()
    return text, ""


def _words(text: str) -> list[str]:
    """Words and signs of a text without case, articles and punctuation; those of a date in one order."""
    text = re.sub(r"\\[A-Za-z]+", " ", text)
    month = _MONTH.search(text)
    if month and re.search(r"\d", text):
        text = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", _MONTH.sub(lambda m: m[1][:3], text))
    words = [w for w in re.findall(r"\d+\.\d+|\w+|[^\w\s.,!'\"(){}]", text.casefold()) if w not in ("a", "an", "the")]
    if words[:1] and words[0] in ("yes", "no", "true", "false"):
        words = words[:1]
    return sorted(words) if month else words


@functools.cache
def checker_fingerprint(*more: Path) -> str:
    """16 hex digits over the code that extracts and compares answers, and over the versions of its packages.

    Stored verdicts of another fingerprint are not reused.

    Args:
        more: Further source files that affect verdicts.
    """
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *more]:
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    return digest.hexdigest()[:16]
