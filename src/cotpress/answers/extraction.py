"""Extraction of the final answer from a solution, and the verdict on it."""

import functools
import json
import re
from enum import Enum
from typing import NamedTuple

from cotpress.answers.comparison import MAX_CHARACTERS, choice, is_equal
from cotpress.answers.reading import NAMES, NUMBER, normal, read

TAIL, MAX_STATEMENTS = 10_000, 100
"""Characters at the end of a text that are searched for an answer that no words announce; last announcements."""
# fmt: off
_WIDE = str.maketrans({**{chr(c + 0xFEE0): chr(c) for c in range(0x21, 0x7F)}, "。": "\n", "−": "-", "–": "-"})
"""Full-width characters, one for one, so that positions stay valid."""
_BRACE = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s{0,9}(?:\{|(?P<bare>-?[\d.,/]*\d|-?\\[A-Za-z]+(?:\{[^{}]{0,99}\})*|[A-Za-z]\b)))"
    r"|\\.|[{}]", re.DOTALL)
_BETWEEN = re.compile(r"(?:[\s$\\\[\](){}.,;:]|(?:and|or|text|quad)(?![a-z])|[A-Za-z]\w? ?=){0,60}")
"""Text between two boxes that make one answer."""
_LEAD = re.compile(
    r"(?<![A-Za-z])(?:answers?|答案|最终结果)(?: to [^.:\n]{1,80}?)?[*_\"']{0,3}\s{0,9}"
    r"(?:is(?![a-z])|are\b|(?:would|should|must|will) be\b|[:=→是为]|- )[\s*:\"_]{0,9}+(?!not\b|n't|unclear)"
    r"|<answer>\s{0,9}"
    r"|^[#*_ \t]{0,9}(?:the )?(?:final |correct )?answer[*_ \t:]{0,9}\n\s{0,9}"
    r"|^[ \t]{0,9}####[ \t]{0,9}(?=[^\w\n]*\d(?![\d.]*[.)]\s)|[$\\]|[^\s#][^\n]*\Z)", re.I | re.M)
"""Words, tags and marks that announce an answer; `#### Step 1` does not."""
_UNSTATED = re.compile(
    rf"\W*(?:{NAMES['remarks']})\b|.*\b(?:answer|result|it) (?:is not|isn't|cannot be|can't be)\b", re.I)
_SIDE = re.compile(
    rf"\b(?:{NAMES['side_clauses']}|given|using|let)\b (?:the |each )?"
    r"\$?\\?[A-Za-z]\w{0,2} ?(?:=|\\[lg][et]q?\b|[<>≤≥]) ?[^\s$]+\$?|, which is [^,.]*\b(?:less|more|fewer)\b.*", re.I)
_VALUE = re.compile(
    r"(?P<math>\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]|\$\$?(?=[^\s$])[^$\n]{0,400}?(?<=[^\s$])\$\$?(?!\d)"
    r"|-?\d*\\(?:[dt]?frac\{[^{}]{1,80}\}\{[^{}]{1,80}\}|sqrt\{[^{}]{1,80}\}))"
    rf"|(?:(?<![A-Za-z0-9_.,])-?\$?)?(?:\d{{1,3}}(?: \d{{3}})+(?![\d-])|{NUMBER})(?:/\d+)?"
    r"(?: ?%| (?:hundred|thousand|million|billion|dozen)\b)?", re.DOTALL)
_TELLING = re.compile(r"[\d^=+/-]|\\pi|\\frac")
"""Part of a formula that can be an answer; `$n$` in `the largest $n$ is 34` only names it."""
_VAGUE = re.compile(r"\b(?:between|neither)\b|\d-\$?\d[^=]*$|\d ?(?:or|to) ?-?\$?\d|\d:\d[1-9]|\d:[1-9]\d")
_CHOSEN = re.compile(
    rf"(?:(?<!or )\b(?i:{NAMES['choosing']})[,:]?|选择?:?|选项 ?是?) ?(?:the |option )*"
    r"[*(\[]{0,3}([A-J]|(?<=\()[a-j])\b(?! (?:or|and) (?:option )?[A-J]\b)"
    r"(?! (?!because|since|as\b|for\b|remains)[a-z])"
    r"|(?:\b(?i:option|choice) [*_]{0,2}\(?([A-Ja-j])|(?<![\w(])(?<!nor )[*_]{0,2}\(?([A-J]))\b\)?[*_]{0,2}"
    r" (?:is|seems) (?:(?:the|therefore|thus|most likely|clearly) ){0,3}(?:correct|right|answer|best)"
    r"|^[ \t]*[*_]{0,2}[(\[]?([A-J])[)\]]?\.?[*_]{0,2}\.?[ \t]*$", re.M)
"""`I choose B`, `option B is correct`, `(B) is the answer`, a line with only a letter."""
_DECLINES = re.compile(
    r"insufficient|unanswerable|unsolvable|cannot be (?:uniquely )?\w+ed\b"
    rf"|(?:missing|incomplete|inadequate|(?:{NAMES['lacking']}) (?:\w+ ){{0,3}}(?:enough|sufficient|necessary))"
    rf" (?:\w+ ){{0,2}}(?:{NAMES['premises']})"
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
    if extractor is Extractor.letter:
        return _last_choice(text.translate(_WIDE))
    if statement := final_statement(text):
        boxed = text[statement.start] == "\\" and extractor is Extractor.math
        answer = statement.text if boxed else _stated_value(statement.text)
    elif re.search(r"\\(?:boxed|fbox)\s{0,9}(?:\{(?!\s{0,9}\})|\Z)", text):  # a box that is left open
        return ""
    else:
        answer = _ending(text[-TAIL:].translate(_WIDE))
    if extractor is Extractor.math:
        return answer
    if "=" in answer:
        answer = re.sub(r"^.*=|\\[()\[\]]|\$$", "", answer, flags=re.DOTALL).strip()
    answer = re.sub(r"^(\d{1,2}):00\b.*", r"\1", answer)
    value = read(normal(answer[:MAX_CHARACTERS])).value
    if extractor is Extractor.integer and value is not None:
        return str(value) if value.denominator == 1 and 0 <= value <= 999 else ""
    return answer if value is not None or re.search(r"\d", answer) else ""


@functools.lru_cache(maxsize=4)
def final_statement(text: str) -> Statement | None:
    """The statement that gives the answer of a solution; None if no words announce one."""
    return next(reversed(_boxes(text) or _announced(text)), None)


def _boxes(text: str) -> list[Statement]:
    """Complete boxes with a content, the outer one of nested boxes; boxes side by side are one statement."""
    boxes: list[Statement] = []
    opened: list[re.Match[str]] = []
    before_boxes = re.split(r"\\(?:boxed|fbox)", text, maxsplit=1)[0]
    for brace in _BRACE.finditer(text, len(before_boxes)):
        if brace[0].endswith("{") and brace[0] != r"\{":
            opened.append(brace)
            continue
        start = brace if brace["bare"] else opened.pop() if brace[0] == "}" and opened else brace
        if not start["box"] or brace.start() - start.end() > MAX_CHARACTERS:
            continue
        if not (content := brace["bare"] or text[start.end() : brace.start()].strip()):
            continue
        box = Statement(start.start(), brace.end(), content)
        if boxes and boxes[-1].text != content and _BETWEEN.fullmatch(text, boxes[-1].end, box.start):
            before = boxes.pop()
            box = Statement(before.start, box.end, f"{before.text}, {content}"[:MAX_CHARACTERS])
        boxes.append(box)
    return boxes


def _announced(text: str) -> list[Statement]:
    """Statements that words, tags or marks announce, each up to the end of its formula or sentence."""
    text = text.rstrip().translate(_WIDE)
    statements = []
    for lead in list(_LEAD.finditer(text))[-MAX_STATEMENTS:]:
        content = _announced_text(lead[0], text[lead.end() : lead.end() + MAX_CHARACTERS]).strip().strip("*").strip()
        statements += [Statement(lead.start(), lead.end(), content)] * bool(content)
    return statements


def _announced_text(lead: str, rest: str) -> str:
    """The answer at the beginning of the text that follows its announcement."""
    if lead.lower().startswith("<answer>"):
        return rest.partition("</answer>")[0]
    if lead.endswith('"') and (quoted := re.match(r'(?:[^"\\\n]|\\[\\"/bfnrt])*(?="\s*[,}])', rest)):
        return str(json.loads(f'"{quoted[0]}"', strict=False))
    if display := re.match(r"\\\[.*?\\\]|\$\$.+?\$\$", rest, re.DOTALL):
        return display[0]
    sentence = re.split(r"\n|(?<![ap]\.m)[.!?](?=\s|$)", rest, maxsplit=1)[0]
    if "\n" in lead and len(sentence.split()) > 3:  # a heading over a paragraph
        return _ending(rest.partition("\n\n")[0]) or sentence
    return sentence


def _stated_value(text: str) -> str:
    """The answer in an announced sentence: all of it if it reads as one, or the formula or number that tells it."""
    whole = normal(text[:MAX_CHARACTERS])
    words = re.search(r"(?<![\\A-Za-z])(?!(?:and|or)\b)[A-Za-z]{2}", whole)
    if not words or read(whole).value is not None or _VAGUE.search(text):
        return text
    return _value(text, announced=True) or text


def _value(text: str, announced: bool = False) -> str:
    """The formula or number that tells the answer of a sentence: after the last `=`, else the last one."""
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox)\s?\{([^{}]*)\}|\*\*", r" \1 ", _SIDE.sub(" ", text)).strip()
    values = [m for m in _VALUE.finditer(text) if not m["math"] or _TELLING.search(m[0])]
    results = [m for m in values if m.start() > text.rfind("=") >= 0]
    if results or not values:
        return results[0][0] if results else ""
    return values[0 if announced and values[0].start() == 0 else -1][0]


def _ending(text: str) -> str:
    """The value of the last sentence that has one."""
    sentences = reversed(re.split(r"\n|(?<=[.!?])[ \t]", text))
    return next((value for s in sentences if s.strip() and not _UNSTATED.match(s) and (value := _value(s))), "")


def _last_choice(text: str) -> str:
    """The last letter that a solution states; `the answer is a proton` states none."""
    letters = [(s.end, choice(normal(s.text[:MAX_CHARACTERS]))) for s in [*_boxes(text), *_announced(text)]]
    letters += [(m.end(), next(letter for letter in m.groups() if letter).upper()) for m in _CHOSEN.finditer(text)]
    return max((pair for pair in letters if pair[1]), default=(0, ""))[1]
