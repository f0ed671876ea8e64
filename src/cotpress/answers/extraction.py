"""Extraction of the final answer from a solution, and the verdict on it."""

import functools
import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from cotpress.answers.comparison import MAX_CHARACTERS, choice, forms, is_equal
from cotpress.answers.reading import NAMES, NUMBER, normal, read

TAIL, MAX_STATEMENTS = 10_000, 100
"""Characters at the end of a text that are searched for an answer that no words announce; boxes and announcements."""
# fmt: off
_WIDE = str.maketrans({**{chr(c + 0xFEE0): chr(c) for c in range(0x21, 0x7F)}, "。": "\n", "−": "-", "–": "-"})
"""Full-width characters, one for one, so that positions stay valid."""
_BOX = re.compile(
    r"\\(?:boxed|fbox)\s{0,9}(?:\{|(?P<bare>-?[\d.,/]*\d|-?\\[A-Za-z]+(?:\{[^{}]{0,99}\})*|[A-Za-z]\b))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN = re.compile(
    r"[\s$\\\[\]().,;:]*(?:\b(?:and|or|quad)\b|\\text\{ ?(?:and|or) ?\})?[\s$\\\[\](]*(?:[A-Za-z]\w? ?= ?)?")
"""Text between two boxes that make one answer."""
_LEAD, _LETTER_LEAD = (re.compile(
    rf"(?:(?<![A-Za-z])(?:{noun})(?: to [^.:\n]{{1,80}}?)?)[*_\"']{{0,3}}\s{{0,9}}"
    r"(?:is(?![a-z])|are\b|(?:would|should|must|will) be\b|[:→]|是|为)[\s*:\"_]{0,9}+(?!not\b|n't|unclear)"
    r"|(?:final|^) {0,3}answer {0,3}(?:=|- ) {0,3}|<answer>\s{0,9}"
    r"|^[#*_ \t]{0,9}(?:the )?(?:final |correct )?answer[*_ \t:]{0,9}\n\s{0,9}(?:[=-]{3,}\s{1,9})?"
    r"|^[ \t]{0,9}####[ \t]{0,9}(?=[-+$\\(\[{]*\d(?![\d.]*[.)]\s)|[$\\]|[^\s#][^\n]*\Z)", re.I | re.M)
    for noun in ("(?:final[ _])?answers?|答案|最终结果", NAMES["options"]))
"""Words, tags and marks that announce an answer; `#### Step 1` does not."""
_FILLER = re.compile(rf"(?:(?:{NAMES['fillers']}|{NAMES['options']})\b[\s,:]*)+(?=\S)", re.I)
_UNSTATED = re.compile(
    rf"\W*(?:{NAMES['remarks']})\b|.*\b(?:answer|result|it) (?:is not|isn't|cannot be|can't be)\b", re.I)
_SIDE = re.compile(
    rf"\b(?:{NAMES['side_clauses']}|given|using|let)\b (?:the |each )?"
    r"\$?\\?[A-Za-z]\w{0,2} ?(?:=|\\[lg][et]q?\b|[<>≤≥]) ?[^\s$]+\$?|, which is [^,.]*\b(?:less|more|fewer)\b.*"
    r"|\([^()]*\b(?:extraneous|rejected|discarded|invalid)\b[^()]*\)", re.I)
_MATH = (r"\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]|(?<![\\\d])\$\$?(?=[^\s$])[^$\n]{0,400}?(?<=[^\s$])\$\$?(?!\d)"
         r"|-?\d*\\(?:[dt]?frac\{[^{}]{1,80}\}\{[^{}]{1,80}\}|sqrt(?:\[\d\])?\{[^{}]{1,80}\})")
_VALUE = re.compile(
    rf"(?P<math>{_MATH})|(?:(?<![A-Za-z0-9_.,])-?\$?)?(?:\d{{1,3}}(?: \d{{3}})+(?![\d-])|\d+(?::\d+)+|{NUMBER})"
    r"(?:/\d+)?"
    r"(?: ?%| (?:hundred|thousand|million|billion|trillion|dozen)\b)?", re.DOTALL)
_VAGUE = re.compile(r"\b(?:between|neither)\b|\d-\$?\d[^=]*$|\d ?(?:or|to) ?-?\$?\d|\d:\d[1-9]|\d:[1-9]\d")
_CHOSEN = re.compile(
    rf"(?:(?<!or )\b(?:{NAMES['choosing']}),?|选择?:?) ?(?:(?i:the|{NAMES['options']}) )*"
    r"[*(\[]{0,3}(?P<a>[A-J]|(?<=\()[a-j])\b(?! (?:or|and) (?:option )?[A-J]\b)"
    r"(?! (?!because|since|as\b|for\b|remains)[a-z])"
    rf"|(?:\b(?i:{NAMES['options']}) [*_]{{0,2}}\(?(?P<b>[A-Ja-j])\b\)?"
    r"|(?<![\w(])(?<!nor )[*_]{0,2}\(?(?P<c>[A-J])\b\)?)[*_]{0,2} (?:is|seems|must be)"
    r" (?:(?:the|therefore|thus|most likely|clearly) ){0,3}(?:correct|right|answer|best)"
    r"|^[ \t]*[*_]{0,2}[(\[]?(?P<d>[A-J])[)\]]?\.?[*_]{0,2}\.?[ \t]*$", re.M)
"""`I choose B`, `option B is correct`, `(B) is the answer`, a line with only a letter."""
_DECLINES = re.compile(
    r"insufficient|unanswerable|unsolvable|cannot be (?:uniquely )?\w+ed\b"
    rf"|(?:{NAMES['lacking']}) (?:\w+ ){{0,3}}(?:enough|sufficient|necessary) (?:\w+ ){{0,2}}(?:{NAMES['premises']})"
    rf"|(?:missing|incomplete|inadequate) (?:\w+ ){{0,2}}(?:{NAMES['premises']})"
    rf"|(?:{NAMES['unable']}) (?:be )?(?:\w+ly )?(?:{NAMES['solving']})", re.I)
_NO_VALUE = re.compile(r"(?i)\b(?:undefined|unknown|indeterminate|not (?:well.?)?(?:defined|given|provided|specified))")
"""Words that decline only as the answer itself; elsewhere they describe other things."""
# fmt: on


class Extractor(Enum):
    """Kind of answer.

    A mathematical expression as written, also tuples, intervals, sets and words (MATH); one number, also with currency,
    a unit or more text (GSM8K); a whole number from 000 to 999 (AIME); the letter of an option (GPQA).
    """

    math = "math"
    number = "number"
    integer = "integer"
    letter = "letter"


class Verdict(NamedTuple):
    """Verdict on an output: its answer (may be empty), True if that is right, True if it says that there is none."""

    predicted: str
    correct: bool
    declined: bool


class Statement(NamedTuple):
    """A place that states an answer: its first character, its end (a box) or that of its introduction, its text."""

    start: int
    end: int
    text: str


def judge(text: str, gold: str, extractor: Extractor = Extractor.math, *, unanswerable: bool = False) -> Verdict:
    """Extract the answer of an output and compare it with the gold answer.

    For an unanswerable question only declining is right: no answer, a truncated text and any answer are wrong. For
    every other question declining is wrong. A gold answer may be announced as that of a solution (`#### 12`).
    """
    gold = statement.text if (statement := final_statement(gold)) else gold
    declined, predicted = declines_to_answer(text), extract_answer(text, extractor)
    return Verdict(predicted, declined if unanswerable else is_equal(gold, predicted), declined)


def declines_to_answer(text: str) -> bool:
    r"""True if a solution ends by saying that its question has no answer; an earlier complaint does not decline.

    Of R1's 102 solutions to questions with a missing premise (arXiv 2504.06514) 29 complain, but only 8 decline.
    """
    if statement := final_statement(text):
        return any(pattern.search(statement.text) for pattern in (_DECLINES, _NO_VALUE))
    return _DECLINES.search("\n\n".join(text.rstrip()[-MAX_CHARACTERS:].split("\n\n")[-2:])) is not None


def extract_answer(text: str, extractor: Extractor = Extractor.math) -> str:
    r"""Extract the answer of a solution; an empty string if there is none. No input raises; the time is linear.

    The last complete `\boxed{...}` counts, otherwise the last of `answer is ...`, `<answer>...</answer>`, JSON and
    `#### ...`, otherwise the last formula or number that is no remark or side clause.
    """
    text = re.sub(r"<<[^<>\n]{1,200}>>", "", text)  # results of GSM8K's calculator, which stand in the text as well
    if extractor is Extractor.letter:
        return _last_choice(text.translate(_WIDE))
    if statement := final_statement(text):
        boxed = text[statement.start] == "\\" and extractor is Extractor.math
        answer = statement.text if boxed else _value(statement.text)
    else:  # a box that is left open lost its answer
        cut = re.search(r"\\(?:boxed|fbox)\s{0,9}(?:\{(?!\s{0,9}\})|\Z)", text)
        answer = "" if cut else _ending(text[-TAIL:].translate(_WIDE))
    if extractor is Extractor.math:
        return answer
    if "=" in answer:
        answer = re.sub(r"^.*=|\\[()\[\]]|\$$", "", answer, flags=re.DOTALL).strip()
    answer = re.sub(r"^(\d{1,2}):00\b.*", r"\1", answer)
    value = read(normal(answer[:MAX_CHARACTERS])).value
    if extractor is Extractor.integer and value is not None:
        return str(value) if value.denominator == 1 and 0 <= value <= 999 else ""
    return answer if value is not None or re.search(r"\d", answer) else ""


def announced_answer(text: str, extractor: Extractor = Extractor.math) -> str:
    """Extract the answer that a text announces; empty if only its last formula, number or letter would be one."""
    if extractor is Extractor.letter:
        return _last_choice(text.translate(_WIDE), alone=False)
    return extract_answer(text, extractor) if final_statement(text) else ""


@functools.lru_cache(maxsize=4)
def final_statement(text: str) -> Statement | None:
    """The statement that gives the answer of a solution; None if no words announce one."""
    if boxes := list(_boxes(text)):
        last, members = boxes[-1], [boxes[-1].text]
        for box in reversed(boxes[:-1]):
            if not _BETWEEN.fullmatch(text[box.end : last.start][:60]):
                break
            last = last._replace(start=box.start)
            members += [box.text] * (box.text not in members)
        return last._replace(text=", ".join(reversed(members)))
    return next(_announced(text, _LEAD), None)


def _boxes(text: str) -> Iterator[Statement]:
    """Complete boxes with a content, the outer one of nested boxes."""
    end = 0
    for box in (box for box in list(_BOX.finditer(text))[-MAX_STATEMENTS:] if box.start() >= end):
        closing, depth = (box if box["bare"] else None), 1
        braces = _BRACE.finditer(text, box.end(), box.end() + MAX_CHARACTERS)
        while closing is None and (brace := next(braces, None)):
            depth += (brace[0] == "{") - (brace[0] == "}")
            closing = None if depth else brace
        if closing:
            end = closing.end()
            content = box["bare"] or _BOX.sub(lambda m: m["bare"] or "{", text[box.end() : closing.start()]).strip()
            if content:
                yield Statement(box.start(), end, content)


def _announced(text: str, leads: re.Pattern[str]) -> Iterator[Statement]:
    """Statements that words, tags or marks announce, each up to the end of its formula or sentence; last one first."""
    text = text.rstrip().translate(_WIDE)
    for lead in reversed(list(leads.finditer(text))[-MAX_STATEMENTS:]):
        rest = text[lead.end() : lead.end() + MAX_CHARACTERS]
        content = re.split(r"\n|(?<![ap]\.m)[.!?](?=\s|$)", rest, maxsplit=1)[0]
        if lead[0].lower().startswith("<answer>"):
            content = rest.partition("</answer>")[0]
        elif lead[0].endswith('"') and (quoted := re.match(r'(?:[^"\\\n]|\\[\\"/bfnrt])*(?="\s*[,}])', rest)):
            content = json.loads(f'"{quoted[0]}"', strict=False)
        elif '":' in lead[0]:
            content = re.split(r"[,}\n]", rest, maxsplit=1)[0]
        elif display := re.match(r"\\\[.*?\\\]|\$\$.+?\$\$", rest, re.DOTALL):
            content = display[0]
        elif "\n" in lead[0] and len(content.split()) > 3:  # a heading over a paragraph
            content = _ending(rest.partition("\n\n")[0]) or content
        if content := _FILLER.sub("", re.sub(r"^\*{0,2}([^*]*)\*{0,2}$", r"\1", content.strip()).strip(), 1):
            yield Statement(lead.start(), lead.end(), content)


def _value(text: str, announced: bool = True) -> str:
    """The answer in a sentence: all of it if it reads as one, its bold part, or the formula or number that tells it."""
    for part in (text, *map(str, reversed(re.findall(r"\*\*([^*\n]+)\*\*", text)))) if announced else ():
        whole = normal(part[:MAX_CHARACTERS])
        words = re.search(r"(?<![\\A-Za-z])(?!(?:and|or)\b)[A-Za-z]{2}", whole)
        quantity = read(whole)
        if not words or forms(whole) or (quantity.value is not None and not re.search(r" \d", quantity.unit)):
            return part
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox)\s?\{([^{}]*)\}|\*\*", r" \1 ", _SIDE.sub(" ", text)).strip()
    text = re.sub(r"(?<=\d)\\[,;!: ](?=\d{3})", "", text)
    if announced and _VAGUE.search(text):
        return text
    values = list(_VALUE.finditer(text))
    telling = [m for m in values if not m["math"] or re.search(r"\d|\\pi|[-+^]", m[0])]  # the largest $n$ is 34
    if not (values := telling or (values if announced else [])):
        return text if announced else ""
    equals = re.sub(_MATH, lambda m: "_" * len(m[0]), text, flags=re.DOTALL).rfind("=")
    results, formulas = [m for m in values if m.start() > equals >= 0], [m for m in values if m["math"]]
    first = values[:1] if values[0].start() == 0 else []
    return str((results[:1] or (announced and (first or formulas[-1:])) or values[-1:])[0][0])


def _ending(text: str) -> str:
    """The value of the last sentence that has one."""
    sentences = reversed(re.split(r"\n|(?<=[.!?])[ \t]", text))
    return next((value for s in sentences if s.strip() and not _UNSTATED.match(s) and (value := _value(s, False))), "")


def _last_choice(text: str, *, alone: bool = True) -> str:
    """The last letter that a solution states; `the answer is a proton` states none.

    `alone`: a text of one line may begin with its letter and state no other.
    """
    stated = [*_boxes(text), *_announced(text, _LETTER_LEAD)]
    texts = [(s.end, s.text[:MAX_CHARACTERS].replace("$", "")) for s in stated]  # `$B` after `Answer: $LETTER` (CTS)
    letters = [(end, choice(_FILLER.sub("", normal(text)))) for end, text in texts]
    letters += [(m.end(), next(letter for letter in m.groups() if letter).upper()) for m in _CHOSEN.finditer(text)]
    is_line = alone and "\n" not in text.strip() and not re.search(r"\b(?:in)?(?:correct|wrong|false|not|or)\b", text)
    first = choice(normal(text[:MAX_CHARACTERS])) if is_line else ""
    return max((pair for pair in letters if pair[1]), default=(0, first))[1]
