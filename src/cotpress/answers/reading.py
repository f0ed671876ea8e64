"""Reading of an answer: its notation is made uniform, and a plain number with its unit is read exactly."""

import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from cotpress.answers.verifier import in_unit

# fmt: off
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
"""An unsigned decimal number, with or without commas between thousands (a regular expression)."""
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PARTS = {"hal": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
          "ninth": 9, "tenth": 10, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_SIGNS = str.maketrans({
    **dict.fromkeys("−–—‒", "-"), "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "。": ".",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "’": "'",
    "∈": r"\in ", "±": r"\pm ", "∅": r"\emptyset ", "θ": r"\theta ", "ℝ": r"\mathbb{R}", "Ω": " ohm ",
    "、": ",", "€": " euros ", "£": " pounds ", "¥": " yen ", "₹": " rupees ", "¢": " cents ",
})
_SCRIPTS = (
    (r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda m: "^{" + unicodedata.normalize("NFKC", m[0]).replace("−", "-") + "}"),
    (r"[₀-₉]+", lambda m: "_{" + unicodedata.normalize("NFKC", m[0]) + "}"),
    (r"[¼-¾⅐-⅞]", lambda m: r" \frac{" + unicodedata.normalize("NFKC", m[0]).replace("⁄", "}{") + "}"),
    (r"√ ?(\w+|(?=[({]))", lambda m: rf"\sqrt{{{m[1]}}}" if m[1] else r"\sqrt"),
)
_FUNCTIONS = r"sqrt|arc(?:sin|cos|tan)|sin|cos|tan|log|ln|exp|pi|infinity|infty"
_RULES = [(re.compile(pattern), new) for pattern, new in (
    (r"\\(?:boxed|fbox)\s*\{(.*)\}", r"\1"),
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|!)(?![A-Za-z])|\\text\{\s*\}", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"), (r"\\frac ?(\d) ?(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac ?\{ ?\\(?:text|mathrm) ?\{([^{}]*)\} ?\} ?\{ ?\\(?:text|mathrm) ?\{([^{}]*)\}([^{}]*)\}", r" \1/\2\3"),
    (r"(?<!\\)\$\$?(?! )([^$]+?)(?<! )\$\$?(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", r" \1\2\3 "),  # formula, not dollars
    (r"\\(?:text|math|mbox)(?:rm|bf|it|sf|tt|normal)?\s?\{([^{}]*)\}", r" \1 "), (r"(?:\bUS ?)?\\?\$", " dollars "),
    (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z])|thinspace)|~|\s+", " "), (r"\{,\}", ","),
    (r"(?<![\d.,])(\d{1,3}(?:([ _'])\d{3})(?:\2\d{3})*)(?!\d)", lambda m: m[1].replace(m[2], "")),
    (r"(?<![\d.,])\d{1,3}(?:(?:\.\d{3})+(?=,\d)|(?:\.\d{3}){2,}(?![.\d]))", lambda m: m[0].replace(".", "")),
    (r"\^ ?(?:\\circ(?![A-Za-z])|\{ ?\\circ ?\})|°|\\degree(?![A-Za-z])", " degrees "),
    (r"(?i)\bdegrees? +([cf])(?:elsius|ahrenheit)?\b", lambda m: f"deg{m[1].upper()}"),
    (r"(?i)\\?% ?|\b(?:percent(?:age)?|pct)\b", "%"), (r"\\Omega(?![A-Za-z])", " ohm "),
    (r"\*\*([^*]+)\*\*", r"\1"), (r"(?<=[\w)])\*\*(?=[\w(-])", "^"), (r"\\?sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
    (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])", r"\\\1 "), (r"(?i)\ball real numbers\b", r"\\mathbb{R}"),
    (r"(?<!\d)(\d*)\.(\d*)(?:\\overline ?\{(\d+)\}|\((\d+)\))", lambda m: _repeating(m[1] or "0", m[2], m[3] or m[4])),
    (rf"(?i)^({'|'.join(_WORDS)})\b-?", lambda m: str(_WORDS.index(m[1].lower()))),
    (rf"(?i)(?<=\d)[ -]?({'|'.join(_SCALES)})\b", lambda m: f"e{_SCALES[m[1].lower()]}"),
    (rf"(?i)(?<!\d)(\d+)[ -]?({'|'.join(_PARTS)})(?:f|ves|s)?(?: of an?)?\b",
     lambda m: rf"\frac{{{m[1]}}}{{{_PARTS[m[2].lower()]}}}"),
    (r"\b(dollars|euros|pounds|yen|rupees) +([-+]?[\d.,]{0,30}\d(?:e\d+)?)", r"\2 \1"),
    (r"(?<=\d)(?:st|nd|rd|th)\b", ""),
    (r"(?i)\bno (?:real )?solutions?\b|\\varnothing|\\\{ ?\\\}", r"\\emptyset"), (r"(?<=\d) ?factorial\b", "!"),
    (r"(?<=\d) (?:(squared)|cubed)\b", lambda m: "^2" if m[1] else "^3"),
    (r"(?i)(?:,? ?\(?|\b)\b(?:since|where|when|with|because|for|if|as|given that)\b.*",  # a side clause
     lambda m: "" if m.start() else m[0]),
    (r"(?i)(?:,? in)? ?\(?\bbase ?-?(\d+)\)?$", r"_\1"), (r"(?<=[\dA-Fa-f]) ?_ ?\{ ?(\w+) ?\}$", r"_\1"),
    (r"^ *\(([^(),]*\d)\)[. ]*$", r"\1"), (r"\s+", " "),
    (r"(?<=\w) *\([A-Za-z ]{4,}\) *$", ""),
)]
_QUANTITY = re.compile(
    rf"(?P<sign>[-+]?) ?(?P<whole>\d+ ?(?=\\)|\d+ (?=\d+ ?/))?"
    rf"(?:\\frac ?\{{ ?(?P<n>-?{NUMBER}) ?\}} ?\{{ ?(?P<d>{NUMBER}) ?\}}"
    rf"|(?P<left>{NUMBER})(?: ?/ ?(?P<right>{NUMBER}))?)"
    r"(?:[eE](?P<e>[-+]?\d{1,3})| ?(?:\\times|\\cdot|[*x]) ?10 ?\^ ?\{? ?(?P<ten>[-+]?\d{1,3}) ?\}?)?"
    r"(?P<percent> ?%)?(?P<unit>[ -]?[A-Za-z\u4e00-\u9fff].*)?")
_SHORT = re.compile(
    r"(?:(?:[kMcdmnµμ]?(?:m|g|s|[lL]|N|J|V|A|W|Wh|Hz|Pa|eV|mol)|ft|in|mi|yd|lbs?|oz|h|hrs?|mins?|sec|gal|mph|kmh|ohm|[CFK]"
    r"|deg[CF]?|rad|cc|cents|dollars)(?:[23²³]|\^ ?\{?[-1-4]{1,2}\}?)?(?: ?(?:/|\*|\\cdot) ?(?=\w)|$| ))+")
"""Units that may follow a number without a space, and the only ones of one or two letters."""
_OPERATORS = {"mod", "or", "and", "to", "plus", "minus", "times", "over", "sqrt", "between", "from", "than", "of"}
# fmt: on


class Quantity(NamedTuple):
    """A number, the last place of a decimal number of six digits or more (otherwise 0), its percent sign and unit."""

    value: Fraction
    step: Fraction
    percent: bool
    unit: str


def normal(text: str) -> str:
    r"""An answer in uniform notation: without markup, `\text`, side clauses, grouping of thousands and full stop."""
    text = " ".join(text.split())
    for pattern, new in _SCRIPTS:
        text = re.sub(pattern, new, text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    for rule, replacement in _RULES:
        text = rule.sub(replacement, text.strip())
    text = text.strip().rstrip(".,;:").strip().removeprefix("=").removeprefix(r"\approx").strip()
    return text[1:-1].strip() if text[:1] == "{" and text.find("}") == len(text) - 1 else text


def _repeating(whole: str, start: str, period: str) -> str:
    """A repeating decimal as a fraction."""
    return rf"\frac{{{int(whole + start + period) - int(whole + start)}}}{{{'9' * len(period)}{'0' * len(start)}}}"


def read_quantity(text: str) -> Quantity | None:
    """Read a `normal` text as a number with an optional unit; None if it is anything else."""
    match = _QUANTITY.fullmatch(text)
    unit = (match["unit"] or "").strip(" -") if match else ""
    if not match or (unit and not is_unit(unit, attached=match["unit"][0] not in " -" and not match["percent"])):
        return None
    decimal = (match["left"] or match["n"]).replace(",", "")
    denominator = (match["d"] or match["right"] or "1").replace(",", "")
    try:
        value = Fraction(decimal) / Fraction(denominator) + int(match["whole"] or 0)
    except (ZeroDivisionError, ValueError):  # ValueError: more than 4,300 digits
        return None
    scale, places = Fraction(10) ** int(match["e"] or match["ten"] or 0), len(decimal.partition(".")[2])
    rounded = places and denominator == "1" and len(decimal.replace(".", "").lstrip("0")) >= 6
    step = scale / 10**places if rounded else Fraction(0)
    return Quantity((-value if match["sign"] == "-" else value) * scale, step, match["percent"] is not None, unit)


def is_unit(text: str, *, attached: bool = False) -> bool:
    """True for the text of a unit or of counted things; False for variables, operators and garbage."""
    words = re.findall(r"[^\W\d_]+", text)
    if not words or not _OPERATORS.isdisjoint(words) or not re.fullmatch(r"(?:[^\W_]|[ ./*^{}'()-]|\\cdot)+", text):
        return False
    if text > "\u2e80" or _SHORT.fullmatch(text):
        return True
    return (
        not attached and len(text) > 2 and (re.search(r"(?i)[aeiouy]", text) is not None or bool(in_unit(text, text)))
    )
