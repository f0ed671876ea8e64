"""Extraction of the final answer from a solution, and the verdict on it."""

import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from cotpress.answers.comparison import MAX_CHARACTERS, choice, is_equal
from cotpress.answers.reading import NUMBER, normal, read_quantity

TAIL = 10_000
"""Characters at the end of a text that are searched for an answer that no words announce."""
# fmt: off
_WIDE = str.maketrans({**{chr(c + 0xFEE0): chr(c) for c in range(0x21, 0x7F)}, "。": "\n", "−": "-", "–": "-"})
"""Full-width characters, one for one, so that positions stay valid."""
_BRACES = re.compile(
    r"\\(?:boxed|fbox)\s{0,9}(?:(?P<box>\{)|(?P<bare>-?[\d.,/]*\d|-?\\[A-Za-z]+(?:\{[^{}]{0,99}\})*|[A-Za-z]\b))"
    r"|\\.|[{}]", re.DOTALL)
_JOINED = re.compile(
    r"[\s$\\\[\]().,;:]*(?:\b(?:and|or|quad)\b|\\text\{ ?(?:and|or) ?\})?[\s$\\\[\](]*(?:[A-Za-z]\w? ?= ?)?")
"""Text between two boxes that make one answer."""
_NOUN = r"(?:answers?|option|choice|alternative|(?:correct|right|best) one|答案|选项|最终结果)"
_LEAD, _LETTER_LEAD = (re.compile(
    rf"(?:(?<![A-Za-z]){noun}(?: to [^.:\n]{{1,80}}?)?)[*_\"']{{0,3}}\s{{0,9}}"
    r"(?:is(?![a-z])|are\b|(?:would|should|must|will) be\b|[:→]|是|为)"
    r"[\s*:\"_]{0,9}|(?:final|^) {0,3}answer {0,3}(?:=|- ) {0,3}"
    r"|^[#*_ \t]{0,9}(?:the )?(?:final |correct )?answer[*_ \t:]{0,9}\n\s{0,9}|<answer>\s{0,9}", re.I | re.M)
    for noun in (r"(?:final[ _])?(?:answers?|答案|最终结果)", _NOUN))
_HASHES = re.compile(r"^[ \t]{0,9}####[ \t]{0,9}(?=\S)", re.M)
_HEADING = re.compile(r"[\d.]+[.)]\s|(?![-+$\\(\[{]*\d|[$\\])\S.*[A-Za-z]{2}|(?:\S+ ){3}\D*[A-Za-z]")
_FILLER = re.compile(
    rf"(?:(?:therefore|thus|so|hence|indeed|simply|clearly|exactly|just|then|equal to|given by|about|the|letter"
    rf"|{_NOUN})\b[\s,:]*)+(?=\S)", re.I)
_UNSTATED = re.compile(
    r"\W*(?:let me know|i hope|hope|feel free|note|remark|as a check|check|sanity|verif|we can verify|this matches"
    r"|explanation)\b|.*\b(?:answer|result|it) (?:is not|isn't|cannot be|can't be)\b", re.I)
"""Beginning of a sentence that states no answer."""
_SIDE = re.compile(
    r"\b(?:with|where|since|if|for|when|given|because|using|let|as)\b (?:the |each )?"
    r"\$?\\?[A-Za-z]\w{0,2} ?(?:=|\\[lg][et]q?\b|[<>≤≥]) ?[^\s$]+\$?", re.I)
_MATH = (r"\\\(.{1,400}?\\\)|\\\[.{1,400}?\\\]|(?<![\\\d])\$\$?(?=[^\s$])[^$\n]{0,400}?(?<=[^\s$])\$\$?(?!\d)"
         r"|-?\d*\\(?:[dt]?frac\{[^{}]{1,80}\}\{[^{}]{1,80}\}|sqrt(?:\[\d\])?\{[^{}]{1,80}\})")
_SCALED = r"(?: ?%| (?:hundred|thousand|million|billion|trillion|dozen)\b)?"
_VALUE = re.compile(
    rf"(?P<math>{_MATH})|(?<![A-Za-z0-9_.,])-?\$?(?:\d{{1,3}}(?: \d{{3}})+(?![\d-])|{NUMBER})(?:/\d+)?{_SCALED}"
    rf"|{NUMBER}{_SCALED}", re.DOTALL)
_VAGUE = re.compile(r"\b(?:between|neither)\b|\d-\$?\d[^=]*$|\d ?(?:or|to) ?-?\$?\d|\d:\d[1-9]|\d:[1-9]\d")
_CHOSEN = re.compile(
    rf"(?:(?<!or )\b(?:choose|select|pick|go with|leaves|must be|only|[Ss]o|[Hh]ence|[Tt]hus|[Oo]ption),?|选择?:?)"
    rf" ?(?:(?i:the|{_NOUN}) )*"
    r"[*(\[]{0,3}(?P<a>[A-J]|(?<=\()[a-j])\b(?! (?:or|and) (?:option )?[A-J]\b)(?! (?!because|since|as\b|for\b)[a-z])"
    rf"|(?:\b(?i:{_NOUN}) [*_]{{0,2}}\(?(?P<b>[A-Ja-j])\b\)?|(?<![\w(])(?<!nor )[*_]{{0,2}}\(?(?P<c>[A-J])\b\)?)"
    r"[*_]{0,2} (?:is|seems) (?:(?:the|therefore|thus|most likely|clearly) ){0,3}(?:correct|right|answer|best)"
    r"|^[ \t]*[*_]{0,2}[(\[]?(?P<d>[A-J])[)\]]?\.?[*_]{0,2}\.?[ \t]*$", re.M)
"""`I choose B`, `option B is correct`, `(B) is the answer`, a line with only a letter."""
_LETTER = re.compile(
    r"[*\"'`(\[]{0,3}([A-Ja-j])(?![)\]]?,? (?:or |and )?\(?[A-J]\b)"
    r"(?:[)\].,:;!*_\"'`<]|$| ?[-(]| (?:not|and not|is|as)\b|(?<=[B-HJ]) (?!or\b|and\b))")
_DECLINES = re.compile(
    r"insufficient|unanswerable|unsolvable|cannot be (?:uniquely )?\w+ed\b"
    r"|(?:not|n't|without|lacks?|lacking) (?:\w+ ){0,3}(?:enough|sufficient|necessary)"
    r" (?:\w+ ){0,2}(?:information|data|context)"
    r"|(?:missing|incomplete|inadequate) (?:\w+ ){0,2}(?:information|data|premise|condition|details|context|value)"
    r"|(?:cannot|can ?not|can't|could not|impossible to|not possible to|unable to|no way to) (?:be )?(?:\w+ly )?"
    r"(?:determine|solve|answer|compute|calculate|find|evaluate|know|give|provide)", re.I)
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
    boxed: bool = False


def judge(text: str, gold: str, extractor: Extractor = Extractor.math, *, unanswerable: bool = False) -> Verdict:
    """Extract the answer of an output and compare it with the gold answer.

    For an unanswerable question only declining is right: no answer, a truncated text and any answer are wrong. For
    every other question declining is wrong.
    """
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

    The last complete `\boxed{...}` counts, otherwise the last of `answer is ...`, `<answer>...</answer>` and JSON,
    otherwise `#### ...`, otherwise the last formula or number that is no remark or side clause.
    """
    text = re.sub(r"<<[^<>\n]{1,200}>>", "", text)  # results of GSM8K's calculator, which stand in the text as well
    if extractor is Extractor.letter:
        return _last_choice(text.translate(_WIDE))
    numeric, statement = extractor is not Extractor.math, final_statement(text)
    if statement is None:
        answer = "" if _scan(text)[1] else _ending(text[-TAIL:].translate(_WIDE))
        answer = _value(answer, True) if numeric and len(answer) <= MAX_CHARACTERS else answer
    else:
        answer = statement.text if statement.boxed and not numeric else _value(statement.text, numeric)
    if extractor is Extractor.integer and (quantity := read_quantity(normal(answer[:MAX_CHARACTERS]))):
        whole = quantity.value.denominator == 1 and 0 <= quantity.value <= 999
        return str(quantity.value.numerator) if whole else ""
    return answer


def final_statement(text: str) -> Statement | None:
    """The statement that gives the answer of a solution; None if no words announce one."""
    if boxes := [box for box in _scan(text)[0] if box.text]:
        last, members = boxes[-1], [boxes[-1].text]
        for box in reversed(boxes[:-1]):
            if not _JOINED.fullmatch(text[box.end : last.start][:60]):
                break
            last = last._replace(start=box.start)
            members += [box.text] * (box.text not in members)
        return last._replace(text=", ".join(reversed(members)))
    marked = next(reversed(list(_after_hashes(text))), None)
    if marked and marked.end + len(marked.text) >= len(text.rstrip()):
        return marked
    stated = (s for s in _stated(text.translate(_WIDE)) if not re.match(r"not\b|n't|unclear", s.text))
    return next(stated, marked)


def statement_range(text: str) -> tuple[int, int] | None:
    """First character and end of the last statement of an answer: a whole box, or the words before another answer."""
    return (statement.start, statement.end) if (statement := final_statement(text)) else None


def _stated(text: str) -> Iterator[Statement]:
    """Statements in words, tags and JSON, each up to the end of its formula or sentence; the last one first."""
    for lead in reversed(list(_LEAD.finditer(text))):
        rest = text[lead.end() : lead.end() + MAX_CHARACTERS]
        if lead[0].lower().startswith("<answer>"):
            content = rest.partition("</answer>")[0]
        elif lead[0].endswith('"') and (quoted := re.match(r'(?:[^"\\\n]|\\[\\"/bfnrt])*(?="\s*[,}])', rest)):
            content = json.loads(f'"{quoted[0]}"', strict=False)
        elif display := re.match(r"\\\[.*?\\\]|\$\$.+?\$\$", rest, re.DOTALL):
            content = display[0]
        else:
            content = re.split(r"\n|(?<![ap]\.m)[.!?](?=\s|$)|,? \"|\}\s*$", rest, maxsplit=1)[0]
            if "\n" in lead[0] and len(content.split()) > 3:  # a heading over a paragraph
                content = _ending(rest.partition("\n\n")[0]) or content
        if content := _FILLER.sub("", content.strip().strip("*").strip(), 1):
            yield Statement(lead.start(), lead.end(), content)


def _after_hashes(text: str) -> Iterator[Statement]:
    """Lines `#### ...` that state an answer: the last line with any content, earlier lines if they are no headings."""
    for mark in _HASHES.finditer(text):
        line = text[mark.end() : mark.end() + MAX_CHARACTERS].partition("\n")[0].rstrip()
        if mark.end() + len(line) >= len(text.rstrip()) or not _HEADING.match(line):
            yield Statement(mark.start(), mark.end(), line)


def _value(statement: str, numeric: bool) -> str:
    """The answer in a statement: all of it, its bold part, the part after `=`, its formula or a number."""
    for part in (statement, *map(str, reversed(re.findall(r"\*\*([^*\n]+)\*\*", statement)))):
        short = not numeric and len(part.split()) < 3 and not re.search(r"[a-z] (?:\$|\\\()", part)
        if short or read_quantity(normal(part)):
            return part
    text = re.sub(r"(?<=\d)\\[,;!: ](?=\d{3})", "", statement)
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox)\s?\{([^{}]*)\}|\*\*", r" \1 ", text)
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(_MATH, " ", text))
    if {"and", "or"}.issuperset(words):  # a formula or a list: the comparison decides whether it is a number
        right = re.sub(r"\\[()\[\]]|\$$", "", statement.rpartition("=")[2]).strip()
        return right if numeric and "=" in statement else statement
    if numeric and _VAGUE.search(text):
        return ""
    text = text[text.rfind("=") + 1 :].strip() if numeric and re.search(r"=[^=]*\d", text) else text
    values = list(_VALUE.finditer(text))
    if numeric:
        return "" if not values else (values[0] if values[0].start() == 0 else values[-1])[0]
    formulas = [m for m in values if m["math"]]
    return str((formulas or values)[-1][0]) if formulas or len(values) == 1 else statement


def _ending(text: str) -> str:
    """The result of the equation in the last sentence with a value, or the last formula or number in it."""
    for sentence in reversed(re.split(r"\n|(?<=[.!?])[ \t]", text)):
        if not sentence or sentence.isspace() or _UNSTATED.match(sentence):
            continue
        sentence = _SIDE.sub(" ", sentence)
        values = [m for m in _VALUE.finditer(sentence) if not m["math"] or re.search(r"\d|\\pi|[-+^]", m[0])]
        equals = re.sub(_MATH, lambda m: "_" * len(m[0]), sentence, flags=re.DOTALL).rfind("=")
        if values:
            return next((m for m in values if m.start() > equals >= 0), values[-1])[0]
    return ""


def _scan(text: str) -> tuple[list[Statement], bool]:
    """Outermost complete boxes, and True if the text ends in an open box, so that its answer is missing."""
    opened: list[re.Match[str]] = []
    closed: list[tuple[int, int, int, int]] = []  # box: first character, start and end of the content, end
    first = re.search(r"\\(?:boxed|fbox)", text)
    for match in _BRACES.finditer(text, first.start()) if first else ():
        if match["bare"]:
            closed.append((match.start(), *match.span("bare"), match.end()))
        elif match[0][-1] == "{" and match[0] != r"\{":
            opened.append(match)
        elif match[0] == "}" and opened and (opener := opened.pop())["box"]:
            inside, outside = opener.end(), match.start()
            while closed and closed[-1][0] >= opener.start():
                inner = closed.pop()
                if not text[opener.end() : inner[0]].strip() and not text[inner[3] : match.start()].strip():
                    inside, outside = inner[1:3]
            closed.append((opener.start(), inside, outside, match.end()))
    unboxed = [_BRACES.sub(lambda m: "{" if m["box"] else m[0], text[b:c]).strip() for _, b, c, _ in closed]
    last_open = max((m.start() for m in opened if m["box"]), default=-1)
    cut = last_open > max((box[0] for box in closed), default=-1) or re.search(r"\\(?:boxed|fbox)\s*\Z", text[-40:])
    return [Statement(box[0], box[3], content, True) for box, content in zip(closed, unboxed, strict=True)], bool(cut)


def _last_choice(text: str) -> str:
    """The last letter that a solution states; `the answer is a proton` states none."""
    letters = [(box.end, choice(_FILLER.sub("", normal(box.text[:MAX_CHARACTERS])))) for box in _scan(text)[0]]
    for lead in list(_LETTER_LEAD.finditer(text))[-100:]:
        start = _FILLER.match(text, lead.end())
        rest = text[start.end() if start else lead.end() :][:80].lstrip().partition("\n")[0]
        if match := _LETTER.match(normal(rest)):
            letters.append((lead.end(), match[1].upper()))
    letters += [(m.end(), (m["a"] or m["b"] or m["c"] or m["d"]).upper()) for m in _CHOSEN.finditer(text)]
    return max((pair for pair in letters if pair[1]), default=(0, ""))[1]
