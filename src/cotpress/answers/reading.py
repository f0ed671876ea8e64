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
    ("([⁰¹²³⁴-⁹⁺⁻ⁿ]+)", r"^{\1}"), ("([₀-₉]+)", r"_{\1}"), ("([¼-¾⅐-⅞])", r" \1"), (r"√ ?(\w+)", r"\\sqrt{\1}"),
    (".+", lambda m: unicodedata.normalize("NFKC", m[0].translate(_SIGNS)).translate(_SIGNS)),
    # markup
    (r"\\(?:boxed|fbox)\s*\{(.*?)\}$", r"\1"), (r"(?<=[\w)])\*\*(?=[\w(-])", "^"),
    (r"\\(?:left|right|displaystyle|!)(?![A-Za-z])|\*\*", ""), (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"(?<!\\)\$\$?(?! )([^$]+?)(?<! )\$\$?(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", r" \1\2\3 "),  # formula, not dollars
    (r"\\(?:text|math|mbox)(?:rm|bf|it|sf|tt|normal)?\s?\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 "),
    (r"\\frac ?\{ ?([A-Za-z]+) \} ?\{ ?([A-Za-z]+) ?(\^?\d?) ?\}", r" \1/\2\3"),  # words, which `\text` marked
    (r"(?:\bUS ?)?\\?\$", " dollars "), (r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~|\s+", " "),
    (r"\{,\}", ","), (r"\\varnothing", r"\\emptyset"), (r"\\% ?", "%"), (r" +\^", "^"),
    (r"\\Omega(?![A-Za-z])", " ohm "),
    (r"\^ ?\{? ?\\circ(?![A-Za-z]) ?\}?|\\degree(?![A-Za-z])", " degrees "),
    (r"(?i)\bdegrees? +([cf])(?:elsius|ahrenheit)?\b", lambda m: f"deg{m[1].upper()}"),
    (r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|log|ln|pi)(?![A-Za-z])", r"\\\1 "), (r"\\sqrt ?\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"(?<![\\A-Za-z])i(?![A-Za-z])", "I"),  # the imaginary unit
    # side clauses and remarks
    (rf"(?i)(?<=.),? ?\(?\b(?:{NAMES['side_clauses']})\b.*", ""), (r"(?<=\w) *\([A-Za-z ]{4,}\) *$", ""),
    (r"^[A-Za-z]* ?\\approx|(?<=[\d})]) ?\\approx.*", ""),
    # numbers
    (r"(?<![\d.,])(\d{1,3}(?:([ _'])\d{3})(?:\2\d{3})*)(?!\d)", lambda m: m[1].replace(m[2], "")),
    (r"(?<![\d.,])\d{1,3}(?:(?:\.\d{3})+(?=,\d)|(?:\.\d{3}){2,}(?![.\d]))", lambda m: m[0].replace(".", "")),
    (r"(\d*)\.(\d*)\\overline ?\{(\d+)\}", lambda m: f"{m[1]}.{m[2]}{m[3] * 12}"),
    (rf"(?i)^({NAMES['numbers']})\b-?", lambda m: str(WORDS["numbers"].index(m[1].lower()))),
    (rf"(?i)(?<=\d)[ -]?({NAMES['after_number']})s?\b(?: of an?\b)?", lambda m: WORDS["after_number"][m[1].lower()]),
    (rf"\b(dollars|{'|'.join(WORDS['currencies'].values())}) +([-+]?[\d.,]{{0,30}}\d(?:e\d+)?)", r"\2 \1"),
    (r"(?<=\d)(?:st|nd|rd|th)\b", ""),
    (r"(?i)(?:,? in)? ?\(?\bbase ?-?(\d+)\)?$|(?<=[\dA-F]) ?_ ?\{ ?(\w+) ?\}$", lambda m: f"_{m[1] or m[2]}"),
    (r"\s+", " "),
)]
_SHORT = (rf"(?:[kMcdmnµμ]?(?:{NAMES['prefixed_units']})|{NAMES['short_units']})"
          r"(?:[23]|\^ ?\{?-?[1-4]\}?)?(?![A-Za-z\d^])")
_UNIT = (rf" ?-?{_SHORT}(?: ?(?:/|\*|\\cdot| ) ?{_SHORT})*| ?[\u4e00-\u9fff].*"
         rf"|[ -](?!.*\b(?:{NAMES['operators']})\b)(?=.*[^\W\d_]{{3}})[^\W\d_](?:[^\W_]|[ ./*^{{}}'()-]|\\cdot)*")
"""Short units, Chinese, or counted things after a space; letters beside a number are variables."""
_QUANTITY = re.compile(rf"(?P<formula>.*?(?:[\d)}}\]!]|\\pi))(?P<scale> ?%| ?dozen\b)?(?P<unit>{_UNIT})? ?")
_FRACTION = re.compile(r"\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}")
_POWER = re.compile(r" ?(?:\\times|\\cdot|[*x]) ?10 ?\^ ?\{? ?([-+]?\d{1,3}) ?\}?$")
_PLAIN = re.compile(rf"[-+]? ?(?:(?:\d+ )?\d+ ?/ ?\d+|{NUMBER}(?:[eE][-+]?\d{{1,3}})?)")
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
    return text.strip().rstrip(" .,;:").removeprefix("=").strip()


def read(text: str) -> Quantity:
    """Separate the formula of a `normal` text from its unit; a text without a number is all formula."""
    match = _QUANTITY.fullmatch(text)
    formula, scale, unit = match.group("formula", "scale", "unit") if match else (text, None, None)
    factor = Fraction(1) if not scale else Fraction(1, 100) if "%" in scale else Fraction(12)
    unit = re.sub(r"[{}]", "", unit or "").replace(r"\cdot", "*").strip(" -")
    return Quantity(formula, _number(formula), factor, unit)


def _number(text: str) -> Fraction | None:
    """The value of a plain number, fraction, mixed number or power of ten; None for anything else."""
    text = _POWER.sub(r"e\1", _FRACTION.sub(r" \1/\2", text).strip())
    if not _PLAIN.fullmatch(text):
        return None
    try:
        parts = re.sub(r" ?/ ?", "/", text.replace(",", "").lstrip("+- ")).split()
        value = sum((Fraction(part) for part in parts), Fraction(0))
    except (ZeroDivisionError, ValueError):  # ValueError: more than 4,300 digits
        return None
    return -value if text[0] == "-" else value
