"""Reading of an answer: its notation is made uniform, and a number or formula is separated from its unit."""

import functools
import re
import tomllib
import unicodedata
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

# fmt: off
WORDS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
"""An unsigned decimal number, with or without commas between thousands (a regular expression)."""
NAMES = {key: "|".join(names) for key, names in WORDS.items()}
"""Alternatives of a regular expression for each table of words."""
_SIGNS = str.maketrans(WORDS["signs"] | {sign: f" {name} " for sign, name in WORDS["currencies"].items()})
_RULES = [(re.compile(pattern), new) for pattern, new in (
    # characters
    ("([⁰¹²³⁴-⁹⁺⁻ⁿ]+)", r"^{\1}"), ("([₀-₉]+)", r"_{\1}"), ("([¼-¾⅐-⅞])", r" \1"),
    (r"√ ?(\w+)", r"\\sqrt{\1}"), ("√", r"\\sqrt"),
    (".+", lambda m: unicodedata.normalize("NFKC", m[0].translate(_SIGNS)).translate(_SIGNS)),
    # markup
    (r"\\(?:boxed|fbox)\s*\{(.*)\}", r"\1"), (r"(?<=[\w)])\*\*(?=[\w(-])", "^"),
    (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|!)(?![A-Za-z])|\\text\{\s*\}|\*\*", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"), (r"\\frac ?(\d) ?(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac ?\{ ?\\(?:text|mathrm) ?\{([^{}]*)\} ?\} ?\{ ?\\(?:text|mathrm) ?\{([^{}]*)\}([^{}]*)\}", r" \1/\2\3"),
    (r"(?<!\\)\$\$?(?! )([^$]+?)(?<! )\$\$?(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", r" \1\2\3 "),  # formula, not dollars
    (r"\\(?:text|math|mbox)(?:rm|bf|it|sf|tt|normal)?\s?\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 "),
    (r"(?:\bUS ?)?\\?\$", " dollars "), (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z])|thinspace)|~|\s+", " "),
    (r"\{,\}", ","), (r"\\% ?", "%"), (r" +\^", "^"), (r"\\Omega(?![A-Za-z])", " ohm "),
    (r"\^ ?(?:\\circ(?![A-Za-z])|\{ ?\\circ ?\})|\\degree(?![A-Za-z])", " degrees "),
    (r"(?i)\bdegrees? +([cf])(?:elsius|ahrenheit)?\b", lambda m: f"deg{m[1].upper()}"),
    (rf"(?<![\\A-Za-z])({NAMES['functions']})(?![A-Za-z])", r"\\\1 "), (r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
    # side clauses and remarks
    (rf"(?i)(?:,? ?\(?|\b)\b(?:{NAMES['side_clauses']})\b.*", lambda m: "" if m.start() else m[0]),
    (r"(?<=\w) *\([A-Za-z ]{4,}\) *$", ""),
    # numbers
    (r"(?<![\d.,])(\d{1,3}(?:([ _'])\d{3})(?:\2\d{3})*)(?!\d)", lambda m: m[1].replace(m[2], "")),
    (r"(?<![\d.,])\d{1,3}(?:(?:\.\d{3})+(?=,\d)|(?:\.\d{3}){2,}(?![.\d]))", lambda m: m[0].replace(".", "")),
    (r"(?<!\d)(\d*)\.(\d*)(?:\\overline ?\{(\d+)\}|\((\d+)\))", lambda m: f"{m[1]}.{m[2]}{(m[3] or m[4]) * 12}"),
    (rf"(?i)^({NAMES['numbers']})\b-?", lambda m: str(WORDS["numbers"].index(m[1].lower()))),
    (rf"(?i)(?<=\d)[ -]?({NAMES['after_number']})s?\b(?: of an?\b)?", lambda m: WORDS["after_number"][m[1].lower()]),
    (rf"\b(dollars|{'|'.join(WORDS['currencies'].values())}) +([-+]?[\d.,]{{0,30}}\d(?:e\d+)?)", r"\2 \1"),
    (r"(?<=\d)(?:st|nd|rd|th)\b", ""), (r"^10\^\{?(-?\d{1,3})\}?$", r"1e\1"),
    (r"(?i)(?:,? in)? ?\(?\bbase ?-?(\d+)\)?$|(?<=[\dA-F]) ?_ ?\{ ?(\w+) ?\}$", lambda m: f"_{m[1] or m[2]}"),
    # phrases
    (r"(?i)\bno (?:real )?solutions?\b|\\varnothing|\\\{ ?\\\}", r"\\emptyset"),
    (r"(?i)\ball real numbers\b", r"\\mathbb{R}"), (r"^ *\(([^(),]*\d)\)[. ]*$", r"\1"), (r"\s+", " "),
)]
_SHORT = (rf"(?:[kMcdmnµμ]?(?:{NAMES['prefixed_units']})|{NAMES['short_units']})"
          r"(?:[23]|\^ ?\{?-?[1-4]\}?)?(?![A-Za-z\d^])")
_UNIT = (rf" ?-?{_SHORT}(?: ?(?:/|\*|\\cdot| ) ?{_SHORT})*| ?[\u4e00-\u9fff].*"
         rf"|[ -](?!.*\b(?:{NAMES['operators']})\b)(?=.*[^\W\d_]{{3}})[^\W\d_](?:[^\W_]|[ ./*^{{}}'()-]|\\cdot)*")
"""Short units, Chinese, or counted things after a space; letters beside a number are variables."""
_QUANTITY = re.compile(rf"(?P<formula>.*?(?:[\d)}}\]!]|\\pi))(?P<scale> ?%| ?dozen\b)?(?P<unit>{_UNIT})? ?")
_PLAIN = re.compile(
    rf"(?P<sign>[-+]?) ?(?P<whole>\d+ ?(?=\\)|\d+ (?=\d+ ?/))?"
    rf"(?:\\frac ?\{{ ?(?P<n>-?{NUMBER}) ?\}} ?\{{ ?(?P<d>{NUMBER}) ?\}}"
    rf"|(?P<left>{NUMBER})(?: ?/ ?(?P<right>{NUMBER}))?)"
    r"(?:[eE](?P<e>[-+]?\d{1,3})| ?(?:\\times|\\cdot|[*x]) ?10 ?\^ ?\{? ?(?P<ten>[-+]?\d{1,3}) ?\}?)?")
# fmt: on


class Quantity(NamedTuple):
    """A formula, its value if it is a plain number, 1/100 for percent or 12 for dozens (else 1), and its unit."""

    formula: str
    value: Fraction | None
    scale: Fraction
    unit: str


@functools.lru_cache(maxsize=4096)
def normal(text: str) -> str:
    r"""An answer in uniform notation: without markup, `\text`, side clauses, grouping of thousands and full stop."""
    text = " ".join(text.split())
    for rule, replacement in _RULES:
        text = rule.sub(replacement, text.strip())
    text = text.strip().rstrip(" .,;:").removeprefix("=").removeprefix(r"\approx").strip()
    return text[1:-1].strip() if text[:1] == "{" and text.find("}") == len(text) - 1 else text


def read(text: str) -> Quantity:
    """Separate the formula of a `normal` text from its unit; a text without a number is all formula."""
    match = _QUANTITY.fullmatch(text)
    formula, scale, unit = match.group("formula", "scale", "unit") if match else (text, None, None)
    factor = Fraction(1) if not scale else Fraction(1, 100) if "%" in scale else Fraction(12)
    unit = re.sub(r"[{}]", "", unit or "").replace(r"\cdot", "*").strip(" -")
    return Quantity(formula, _number(formula), factor, unit)


def _number(text: str) -> Fraction | None:
    """The value of a plain number, fraction, mixed number or power of ten; None for anything else."""
    if not (match := _PLAIN.fullmatch(text)):
        return None
    above, below = match["left"] or match["n"], match["d"] or match["right"] or "1"
    try:
        value = Fraction(above.replace(",", "")) / Fraction(below.replace(",", "")) + int(match["whole"] or 0)
    except (ZeroDivisionError, ValueError):  # ValueError: more than 4,300 digits
        return None
    return (-value if match["sign"] == "-" else value) * Fraction(10) ** int(match["e"] or match["ten"] or 0)
