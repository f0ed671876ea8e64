"""Extraction of the final answer from a solution, as a mathematical expression, a number, an integer or a letter."""

import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from cotpress.answers.comparison import MAX_CHARACTERS, choice
from cotpress.answers.reading import NUMBER, normal, read_quantity

TAIL = 10_000
"""Characters at the end of a text that are searched for an answer that no words announce."""
_WIDE = str.maketrans({**{chr(c + 0xFEE0): chr(c) for c in range(0x21, 0x7F)}, "。": "\n", "\u2212": "-", "\u2013": "-"})
"""Full-width characters, one for one, so that positions stay valid."""
_BRACES = re.compile(
    r"\\(?:boxed|fbox)\s{0,9}(?:(?P<box>\{)|(?P<bare>-?[\d.,/]*\d|-?\\[A-Za-z]+(?:\{[^{}]{0,99}\})*|[A-Za-z]\b))|\\.|[{}]",
    re.DOTALL,
)
_CUT = re.compile(r"\\(?:boxed|fbox)\s*\Z")
_JOINED = re.compile(r"[\s$\\\[\]().,;:]*(?:\b(?:and|or|quad)\b|\\text\{ ?(?:and|or) ?\})?[\s$\\\[\](]*(?:[A-Za-z]\w? ?= ?)?")
"""Text between two boxes that make one answer."""
_LEAD = re.compile(
    r"(?:\b(?:final[ _])?answers?(?: to [^.:\n]{1,80}?)?|答案|最终结果)[*_\"']{0,3}\s{0,9}"
    r"(?:is(?![a-z])|are\b|(?:would|should|must|will) be\b|[:=→]|- |是|为|應為)[\s*:\"_]{0,9}"
    r"|^[#*_ \t]{0,9}(?:the )?(?:final |correct )?answer[*_ \t:]{0,9}\n\s{0,9}|<answer>\s{0,9}",
    re.I | re.M,
)  # fmt: skip
_HASHES = re.compile(r"^[ \t]{0,9}####[ \t]{0,9}(?=\S)", re.M)
_HEADING = re.compile(r"[\d.]+[.)]\s|(?![-+$\\(\[{]*\d|[$\\])\S.*[A-Za-z]{2}|(?:\S+ ){3}\D*[A-Za-z]")
_FILLER = re.compile(r"(?:(?:therefore|thus|so|hence|indeed|simply|clearly|exactly|just|then|equal to|given by|approximately|about)\b[\s,:]*)+", re.I)
_UNSTATED = re.compile(
    r"\W*(?:let me know|i hope|hope|feel free|note|remark|as a check|check|sanity|verif|we can verify|this matches|explanation)\b"
    r"|.*\b(?:answer|result|it) (?:is not|isn't|cannot be|can't be)\b", re.I
)
"""Beginning of a sentence that states no answer."""
_SIDE = re.compile(r"\b(?:with|where|since|if|for|when|given|because|using|let|as)\b [^.,=<>\d\n]{0,40}(?:=|\\l[et]q?\b|[<>≤≥]) ?(?:[^\s$]+\$?)", re.I)
_MATH = r"\\\((?:.{1,400}?)\\\)|\\\[(?:.{1,400}?)\\\]|(?<![\\\d])\$\$?(?=[^\s$])(?:[^$\n]{0,400}?)(?<=[^\s$])\$\$?(?!\d)"
_BARE = r"-?\d*\\(?:[dt]?frac\{[^{}]{1,80}\}\{[^{}]{1,80}\}|sqrt(?:\[\d\])?\{[^{}]{1,80}\})"
_SCALED = r"(?: ?%| (?:hundred|thousand|million|billion|trillion|dozen)\b)?"
_NUMBER = rf"(?<![A-Za-z0-9_.,])-?\$?(?:\d{{1,3}}(?: \d{{3}})+(?!\d)|{NUMBER})(?:/\d+)?{_SCALED}|{NUMBER}{_SCALED}"
_VALUE = re.compile(rf"(?P<math>{_MATH}|{_BARE})|{_NUMBER}", re.DOTALL)
_RESULT = re.compile(r"[\d)}>%]\s*=\s*")
_VAGUE = re.compile(r"\b(?:between|neither)\b|\d ?(?:or|to) ?-?\$?\d|\d:\d[1-9]|\d:[1-9]\d")


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


class Statement(NamedTuple):
    """A place that states an answer: its first character, its end (of a box) or that of its introduction, its text."""

    start: int
    end: int
    text: str
    boxed: bool


def extract_answer(text: str, extractor: Extractor = Extractor.math) -> str:
    r"""Extract the answer of a solution; an empty string if there is none. No input raises; the time is linear.

    The last complete `\boxed{...}` counts, otherwise the last of `answer is ...`, `<answer>...</answer>` and JSON,
    otherwise `#### ...`, otherwise the last formula or number that is no remark or side clause.

    Args:
        text: The written solution.
        extractor: Kind of answer.
    """
    if extractor is Extractor.letter:
        return last_choice(text)
    numeric = extractor is not Extractor.math
    statement = final_statement(text)
    if statement is None:
        answer = "" if _cut_off(text) else _ending(text[-TAIL:].translate(_WIDE), numeric)
    elif statement.boxed and not numeric:
        answer = statement.text
    else:
        answer = _value(statement.text, numeric)
    if extractor is Extractor.integer and answer:
        quantity = read_quantity(normal(answer[:MAX_CHARACTERS]))
        if quantity:
            whole = quantity.value.denominator == 1 and 0 <= quantity.value <= 999
            answer = str(quantity.value.numerator) if whole else ""
    return answer


def final_statement(text: str) -> Statement | None:
    """The statement that gives the answer of a solution; None if no words announce one."""
    boxes = [box for box in _scan(text)[0] if box.text]
    if boxes:
        last, members = boxes[-1], [boxes[-1].text]
        for box in reversed(boxes[:-1]):
            if not _JOINED.fullmatch(text[box.end : last.start][:60]):
                break
            last = last._replace(start=box.start)
            members += [box.text] * (box.text not in members)
        return last._replace(text=", ".join(reversed(members)))
    return next((s for s in _stated(text.translate(_WIDE)) if not re.match(r"not\b|n't|unclear", s.text)), None) or next(
        reversed(list(_after_hashes(text))), None
    )


def statement_range(text: str) -> tuple[int, int] | None:
    r"""First character and end of the last statement of an answer; None if the text has none.

    The range of a box is the whole box, that of `answer is ...` and `#### ...` the part before the answer. Of several
    kinds it is the one that `extract_answer` reads. A bare number is no statement.
    """
    statement = final_statement(text)
    return statement and (statement.start, statement.end)


def _stated(text: str) -> Iterator[Statement]:
    """Statements in words, tags and JSON, each up to the end of its formula or sentence; the last one first."""
    for lead in reversed(list(_LEAD.finditer(text))):
        rest = text[lead.end() : lead.end() + MAX_CHARACTERS]
        if lead[0].lower().startswith("<answer>"):
            content = rest.partition("</answer>")[0]
        elif (quoted := re.match(r'(?:[^"\\]|\\.)*(?="\s*[,}])', rest)) and lead[0].endswith('"'):
            content = json.loads(f'"{quoted[0]}"')
        elif display := re.match(r"\\\[.*?\\\]|\$\$.+?\$\$", rest, re.DOTALL):
            content = display[0]
        else:
            content = re.split(r"\n|(?<![ap]\.m)[.!?](?=\s|$)|,? \"|\}\s*$", rest, maxsplit=1)[0]
            if "\n" in lead[0] and len(content.split()) > 3:  # a heading over a paragraph
                content = _ending(rest.partition("\n\n")[0], True) or content
        content = _FILLER.sub("", content.strip().strip("*").strip(), 1)
        if content:
            yield Statement(lead.start(), lead.end(), content, False)


def _after_hashes(text: str) -> Iterator[Statement]:
    """Lines `#### ...` that state an answer: the last line with any content, earlier lines if they are no headings."""
    end = len(text.rstrip())
    for mark in _HASHES.finditer(text):
        line = text[mark.end() : mark.end() + MAX_CHARACTERS].partition("\n")[0].rstrip()
        if mark.end() + len(line) >= end or not _HEADING.match(line):
            yield Statement(mark.start(), mark.end(), line, False)


def _value(statement: str, numeric: bool) -> str:
    """The answer in a statement: all of it, its bold part, the part after `=`, its formula or a number."""
    for part in (statement, *reversed(re.findall(r"\*\*([^*\n]+)\*\*", statement))):
        if read_quantity(normal(part)) or (not numeric and len(part.split()) < 3):
            return part
    whole = re.sub(r"(?<=\d)\\[,;!: ](?=\d{3})", "", statement)
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox)\s?\{([^{}]*)\}|\*\*", r" \1 ", whole)
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(_MATH, " ", text))
    if {"and", "or"}.issuperset(words):  # a formula or a list: the comparison decides whether it is a number
        return statement.rpartition("=")[2] if numeric else statement
    if numeric and _VAGUE.search(text):
        return ""
    if not numeric:
        values = [m for m in _VALUE.finditer(text)]
        formulas = [m for m in values if m["math"]]
        return (formulas or values)[-1][0] if formulas or len(values) == 1 else statement
    text = text[text.rfind("=") + 1 :].strip() if re.search(r"=[^=]*\d", text) else text
    values = list(_VALUE.finditer(text))
    return "" if not values else (values[0] if values[0].start() == 0 else values[-1])[0]


def _ending(text: str, numeric: bool) -> str:
    """The last formula or number of a text, or the result of the equation in its last line; no remark, no side clause."""
    for sentence in reversed(re.split(r"\n|(?<=[.!?])[ \t]", text)):
        if not sentence or sentence.isspace() or _UNSTATED.match(sentence):
            continue
        sentence = _SIDE.sub(" ", sentence)
        results = list(_RESULT.finditer(sentence))
        first = _VALUE.match(sentence, results[-1].end()) if results else None
        values = [m for m in _VALUE.finditer(sentence) if not m["math"] or re.search(r"\d|\\pi|[-+^]", m[0])]
        if first or values:
            return (first or values[-1])[0]
    return ""


def _cut_off(text: str) -> bool:
    """True if the text ends inside a box, so that its answer is missing."""
    return _scan(text)[1] or _CUT.search(text, max(len(text) - 40, 0)) is not None


def _scan(text: str) -> tuple[list[Statement], bool]:
    """Outermost complete boxes, and True if the last box of the text is open."""
    opened: list[re.Match[str]] = []
    closed: list[tuple[int, int, int, int]] = []  # box: first character, start and end of the content, end
    first = re.search(r"\\(?:boxed|fbox)", text)
    for match in _BRACES.finditer(text, first.start()) if first else ():
        if match["bare"]:
            closed.append((match.start(), *match.span("bare"), match.end()))
        elif match["box"] or match[0] == "{":
            opened.append(match)
        elif match[0] == "}" and opened and (opener := opened.pop())["box"]:
            inside, outside = opener.end(), match.start()
            while closed and closed[-1][0] >= opener.start():
                inner = closed.pop()
                if not text[opener.end() : inner[0]].strip() and not text[inner[3] : match.start()].strip():
                    inside, outside = inner[1:3]
            closed.append((opener.start(), inside, outside, match.end()))
    last_open = max((m.start() for m in opened if m["box"]), default=-1)
    boxes = [Statement(a, d, _BRACES.sub(lambda m: "{" if m["box"] else m[0], text[b:c]).strip(), True) for a, b, c, d in closed]
    return boxes, last_open > max((box[0] for box in closed), default=-1)


_NOUN = r"(?:answer|option|choice|statement|alternative|答案|选项)"
_LETTER_LEAD = re.compile(
    rf"(?:\b{_NOUN}|答案|\b(?:correct|right|best) one)[*_\"']{{0,3}} ?(?:is|:|-|=|would be|must be|should be|是|为)[*_:\" ]{{0,4}}\s{{0,3}}"
    rf"(?:(?:therefore|thus|indeed|clearly|the|letter|{_NOUN}) ){{0,3}}(?:option )?"
    rf"|\b(?:choose|select|pick|go with|leaves) (?:{_NOUN} )?|(?:应|故|所以|因此)?选(?:择)?[:]?|<answer>",
    re.I,
)
"""Words before a letter."""
_LETTER = re.compile(
    r"[*_`$\"'\u201c\u2018]{0,4}(?:\\\(|\\\[)?\s?(?:\\(?:text|mathrm|mathbf|textbf)\s?\{)?"
    r"(?:[(\[]\s?([A-Ja-j])\s?[)\]]"
    r"|([A-Ja-j])(?=[)\].,:;!*_`$}\"'\u201d\u2019\\<]|\s*$|\s*\n| (?:because|since|as|is|with|which|and not|not)\b"
    r"| [-\u2013\u2014(])"
    r"|([B-HJ])(?=\s(?!or\b|and\b)))"
)
"""A letter with its markup. Without markup, `A`, `I` and lower-case letters count only where no word follows."""
_CONFIRMED = re.compile(
    rf"(?:\b(?i:{_NOUN}) [*_]{{0,2}}\(?([A-Ja-j])\)?|(?<![\w(])[*_]{{0,2}}\(?([A-J])\)?)[*_]{{0,2}} "
    r"(?i:is|seems) (?i:(?:the|therefore|thus|most likely|clearly) ){0,3}(?i:correct|right|answer|best)"
)
"""`Option B is correct`, `(B) is the answer`."""
_ALONE = re.compile(r"^[ \t]*[*_]{0,2}[(\[]?([A-J])[)\]]?\.?[*_]{0,2}\.?[ \t]*$", re.MULTILINE)
"""A line with only a letter."""


def last_choice(text: str) -> str:
    r"""The last letter that a solution states: `\boxed{B}`, `the answer is (B)`, `option B is correct`, a line `B`.

    A lower-case letter counts in parentheses, in a box, or before punctuation; `the answer is a proton` states no
    letter.
    """
    text = text.translate(_WIDE)
    named = re.compile(rf"^{_NOUN}[ :]+", re.I)
    letters = [(box.end, c) for box in _scan(text)[0] if (c := choice(named.sub("", normal(box.text[:MAX_CHARACTERS]))))]
    leads = (_LETTER.match(text, lead.end()) for lead in _LETTER_LEAD.finditer(text))
    matches = [m for m in leads if m is not None]
    matches += [*_CONFIRMED.finditer(text), *_ALONE.finditer(text)]
    letters += [(m.end(), next(group for group in m.groups() if group).upper()) for m in matches]
    if letters:
        return max(letters)[1]
    last = re.split(r"\n|(?<=[.!?]) ", text.rstrip()[-TAIL:])[-1]
    single = {a or b for a, b in re.findall(r"\(([A-J])\)|\b(?:be|so|hence|thus|leaves|only) ([B-HJ])\b", last)}
    return single.pop() if len(single) == 1 and not re.search(r"(?i)\bnot\b|n't|wrong|false|incorrect", last) else ""
