"""Reading of an answer: notation is made uniform, and plain numbers with their units are read exactly."""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

_SIGNS = str.maketrans({
    **dict.fromkeys("−–—‒﹣－", "-"), "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "±": r"\pm ", "∅": r"\emptyset ", "θ": r"\theta ", "ℝ": r"\mathbb{R}", "Ω": "ohm ", "Ω": "ohm ",
    "。": ".", "、": ",", "’": "'", "“": '"', "”": '"', "€": " euros ", "£": " pounds ",
    "¥": " yen ", "₹": " rupees ", "¢": " cents ",
})  # fmt: skip
_WORDS = {word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())}
_UNICODE = (
    (r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda m: "^{" + unicodedata.normalize("NFKC", m[0]).replace("\u2212", "-") + "}"),
    (r"[₀-₉]+", lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}"),
    (r"[¼-¾⅐-⅞]", lambda m: r" \frac{%s}{%s}" % tuple(unicodedata.normalize("NFKC", m[0]).split("⁄"))),
    (r"[∛√] ?(\w+|(?=[({]))", lambda m: r"\sqrt" + "[3]" * (m[0][0] == "∛") + (f"{{{m[1]}}}" if m[1] else "")),
)



def _repeating(decimal: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as a fraction."""
    whole, start, period = decimal[1] or "0", decimal[2], decimal[3] or decimal[4]
    value = int(whole + start + period) - int(whole + start)
    return rf"\frac{{{value}}}{{{int('9' * len(period) + '0' * len(start))}}}"


_REWRITES = [(re.compile(pattern, re.I if pattern.startswith("(?i)") else 0), new) for pattern, new in (
    (r"\\(?:boxed|fbox)\s*\{(.*)\}", r"\1"),
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|!|limits|tfrac(?=!))(?![A-Za-z])|\\text\{\s*\}", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\frac ?(\d) ?(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac ?\{ ?\\(?:text|mathrm) ?\{([^{}]*)\} ?\} ?\{ ?\\(?:text|mathrm) ?\{([^{}]*)\}([^{}]*)\}", r" \1/\2\3"),
    (r"(?<!\\)\$\$?(?! )([^$]+?)(?<! )\$\$?(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", r" \1\2\3 "),
    (r"\\(?:text|math|mbox)(?:rm|bf|it|sf|tt|normal)?\s?\{([^{}]*)\}", r" \1 "),
    (r"(?:\bUS ?)?\\?\$", " dollars "),
    (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z])|thinspace)|~|\s+", " "),
    (r"\{,\}", ","),
    (r"(?<![\d.,])(\d{1,3}(?:([ _'])\d{3})(?:\2\d{3})*)(?!\d)", lambda m: m[1].replace(m[2], "")),
    (r"(?<![\d.,])\d{1,3}(?:(?:\.\d{3})+(?=,\d)|(?:\.\d{3}){2,}(?![.\d]))", lambda m: m[0].replace(".", "")),
    (r"\^ ?(?:\\circ(?![A-Za-z])|\{ ?\\circ ?\})|°|\\degree(?![A-Za-z])", " degrees "),
    (r"(?i)\bdegrees? +(?:(c)(?:elsius)?|(f)(?:ahrenheit)?)\b", lambda m: f"deg{(m[1] or m[2]).upper()}"),
    (r"(?i)\\?% ?|\b(?:percent(?:age)?|pct)\b", "%"),
    (r"\*\*([^*]+)\*\*", r"\1"),
    (r"(?<=[\w)])\*\*(?=[\w(-])", "^"),
    (r"\\?sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![\\A-Za-z])(sqrt|arc(?:sin|cos|tan)|sin|cos|tan|log|ln|exp|pi|infinity|infty)(?![A-Za-z])", r"\\\1 "),
    (r"(\d*)\.(\d*)(?:\\overline ?\{(\d+)\}|\((\d+)\))", _repeating),
    (r"\\Omega(?![A-Za-z])", " ohm "),
    (r"(?i)\ball real numbers\b", r"\\mathbb{R}"),
    (r"(?i)\bno (?:real )?solutions?\b|\\varnothing|\\\{ ?\\\}", r"\\emptyset"),
    (r"(?<=\d) ?factorial\b", "!"),
    (r"(?i)(?:,? ?\(?|\b)\b(?:since|where|when|with|because|for|if|as|given that)\b.*", lambda m: "" if m.start() else m[0]),
    (r"(?i)(?:,? in)? ?\(?\bbase ?-?(\d+)\)?$", r"_\1"),
    (r"^ *\(([^(),]*\d)\)[. ]*$", r"\1"),
    (r"\s+", " "),
)]  # fmt: skip
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d+)"
NUMBER = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
"""An unsigned decimal number, with or without commas between thousands (a regular expression)."""
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PARTS = dict(zip("hal third quarter fourth fifth sixth seventh eighth ninth tenth".split(), (2, 3, 4, 4, 5, 6, 7, 8, 9, 10), strict=True))
_PARTS |= {"hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_QUANTITY = re.compile(
    rf"(?P<s1>[-+]?) ?(?P<money>dollars|euros|pounds|yen|rupees)? ?(?P<s2>[-+]?) ?(?P<word>{'|'.join(_WORDS)})?(?(word)|"
    rf"(?P<whole>\d+ ?(?=\\)|\d+ (?=\d+ ?/))?(?:\\frac ?\{{ ?(?P<n>-?{NUMBER}) ?\}} ?\{{ ?(?P<d>{NUMBER}) ?\}}"
    rf"|(?P<left>{NUMBER})(?: ?/ ?(?P<right>{NUMBER}))?))"
    r"(?:[eE](?P<e>[-+]?\d{1,3})| ?(?:\\times|\\cdot|[*x]) ?10 ?\^ ?\{? ?(?P<ten>[-+]?\d{1,3}) ?\}?)?"
    r"(?P<more>(?: ?%)?(?:[ -]?[A-Za-z\u4e00-\u9fff.].*)?)", re.I
)  # fmt: skip
_SHORT = re.compile(
    r"(?:(?:[kMcdmnµμ]?(?:m|g|s|[lL]|N|J|V|A|W|Wh|Hz|Pa|eV|mol)|ft|in|mi|yd|lbs?|oz|h|hrs?|mins?|sec|gal|mph|kmh|ohm|[CFK]"
    r"|deg[CF]?|rad|cc|cents|dollars)(?:[23²³]|\^ ?\{?[-1-4]{1,2}\}?)?(?: ?(?:/|\*|\\cdot) ?(?=\w)|$| ))+"
)
"""Units that may follow a number without a space, and the only ones of one or two letters."""
_OPERATORS = frozenset("mod or and to plus minus times over sqrt between from than of".split())


class Quantity(NamedTuple):
    """A number with its unit.

    Attributes:
        value: The number; for dozens their number, with `dozen` as the unit.
        step: One unit in the last place of a decimal number of at least six digits; 0 for any other number.
        percent: True if a percent sign follows.
        unit: Text of the unit; empty if there is none.
    """

    value: Fraction
    step: Fraction
    percent: bool
    unit: str


def normal(text: str) -> str:
    r"""An answer in uniform notation: without markup, `\text`, side clauses, grouping of thousands and full stop."""
    text = " ".join(text.split())
    for pattern, new in _UNICODE:
        text = re.sub(pattern, new, text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    for rule, replacement in _REWRITES:
        text = rule.sub(replacement, text)
    text = text.strip().rstrip(".,;:").strip().removeprefix("=").removeprefix(r"\approx").strip()
    while text[:1] == "{" and text.find("}") == len(text) - 1:
        text = text[1:-1].strip()
    return text


def read_quantity(text: str) -> Quantity | None:
    """Read a `normal` text as a number with an optional unit; None if it is anything else."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    more, exponent = match["more"].strip(" -"), int(match["e"] or match["ten"] or 0)
    decimal = match["left"] or match["n"] or _WORDS[match["word"].lower()]
    decimal, denominator = decimal.replace(",", ""), (match["d"] or match["right"] or "1").replace(",", "")
    percent, more = more.startswith("%"), more.removeprefix("%").strip()
    first, _, rest = more.partition(" ")
    try:
        value = Fraction(decimal) / Fraction(denominator)
        if (part := first.lower().rstrip("sfve")) in _PARTS and not percent:
            value, more = value / _PARTS[part], rest.removeprefix("of ").removeprefix("a ")
    except (ZeroDivisionError, ValueError):  # ValueError: more than 4,300 digits
        return None
    value += int(match["whole"] or 0)
    while (scale := more.partition(" ")[0].lower()) in SCALES:
        exponent, more = exponent + SCALES[scale], more.partition(" ")[2]
    if re.match(r"(?:st|nd|rd|th)\b", more) and not match["more"].startswith(" "):
        more = more[2:].strip()
    unit = f"{match['money'] or ''} {more}".strip()
    if more and not is_unit(more, attached=not match["more"].startswith((" ", "-", "%"))):
        return None
    places = len(decimal.partition(".")[2])
    exact = len(decimal.replace(".", "").lstrip("0")) < 6 or not places or denominator != "1"
    sign = -1 if "-" in match["s1"] + match["s2"] else 1
    step = 0 if exact else Fraction(10) ** (exponent - places)
    return Quantity(sign * value * Fraction(10) ** exponent, Fraction(step), percent, unit)


def is_unit(text: str, *, attached: bool = False) -> bool:
    """True for the text of a unit or of counted things; False for variables, operators and garbage."""
    words = re.findall(r"[^\W\d_]+", text)
    if not words or not _OPERATORS.isdisjoint(words) or not re.fullmatch(r"(?:[^\W_]|[ ./*^{}'()-]|\\cdot)+", text):
        return False
    if text > "\u2e80" or _SHORT.fullmatch(text):
        return True
    from cotpress.answers.verifier import in_unit

    noun = re.search(r"[aeiouyAEIOUY]", text) is not None
    return not attached and len(words[0] + words[-1]) > 3 and (noun or in_unit(text, text) is not None)
