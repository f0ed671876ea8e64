r"""Statements of an answer in a text: boxes, `answer is ...`, `#### ...`; in time linear in the text's length."""

import re
from dataclasses import dataclass

MAX_STATEMENT = 2000
"""Longest statement, in characters; benchmark answers are much shorter."""
TAIL = 10_000
"""Characters at the end of a text that are searched for a bare number as its answer."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_CUT_BOX = re.compile(r"\\(?:boxed|fbox)\s*\Z")
_STATED = re.compile(r"(?:final\s+answer|\banswer)\**\s*(?:is(?![a-z])|:)\s*:?\**\s*:?\s*", re.IGNORECASE)
"""Excludes `isn't`; includes `is18`, as students of compressed text leave out spaces."""
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]{0,1999})", re.MULTILINE)
_NUMBERED = re.compile(r"[\d.]+[.)]\s")
_BEGINS_VALUE = re.compile(r"[-+$\\(\[{]*\d|[$\\]")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_UNIT_WORDS = 2
"""Most words after a number in an answer line, e.g. `#### 12 square feet`."""
_MATH = re.compile(r"\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Box:
    r"""A complete `\boxed{...}` outside other boxes.

    Attributes:
        start: Position of its backslash.
        end: Position after its closing brace.
        content: Its content with inner boxes unwrapped: `2+\boxed{3}` reads `2+3`.
    """

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    """All complete outermost boxes, in order."""
    return _scan(text)[0]


def boxed(text: str) -> str:
    """Content of the last complete box that is not empty; empty if there is none."""
    return next((box.content for box in reversed(boxes(text)) if box.content), "")


def cut_off(text: str) -> bool:
    """True if the text ends inside a box, so that its answer is missing."""
    return _scan(text)[1] or _CUT_BOX.search(text, max(len(text) - 40, 0)) is not None


def stated(text: str) -> str:
    """Text after the last `answer is` or `answer:`, up to the end of its formula or sentence."""
    last = None
    for last in _STATED.finditer(text):  # noqa: B007 - only the last match is used
        pass
    if last is None:
        return ""
    rest = text[last.end() : last.end() + MAX_STATEMENT]
    if math := _MATH.match(rest):
        return _inside(math)
    sentence = re.split(r"\n|\.(?=\s|$)", rest, maxsplit=1)[0]
    return sentence.strip().strip("*").strip()


def after_hashes(text: str) -> str:
    """Text after the last `####` that states an answer (GSM8K)."""
    return next((match.group(1).strip() for match in reversed(_answer_lines(text))), "")


def _answer_lines(text: str) -> list[re.Match[str]]:
    """Lines `#### ...` that state an answer: the last line of the text with any content, earlier lines if no headings.

    `#### Step 2: the sum` and `#### 1. Read the question` are headings; `#### 5 apples` is an answer.
    """
    end = len(text.rstrip())
    return [m for m in _HASHES.finditer(text) if m.end() >= end or not _is_heading(m.group(1))]


def _is_heading(line: str) -> bool:
    words = len(_WORD.findall(line))
    return _NUMBERED.match(line) is not None or words > (_UNIT_WORDS if _BEGINS_VALUE.match(line) else 0)


def statement_range(text: str) -> tuple[int, int] | None:
    r"""First character and end of the last statement of an answer; None if the text has none.

    The range of a box is the whole box, that of `answer is ...` and `#### ...` the part before the answer. Of several
    kinds it is the one that `extract_answer` reads. A bare number is no statement.
    """
    if filled := [box for box in boxes(text) if box.content]:
        return filled[-1].start, filled[-1].end
    if leads := list(_STATED.finditer(text)):
        return leads[-1].span()
    if lines := _answer_lines(text):
        return lines[-1].start(), lines[-1].start(1)
    return None


def formulas(text: str) -> list[str]:
    r"""Contents of `$...$`, `\(...\)` and `\[...\]` in a short text."""
    return [_inside(match) for match in _MATH.finditer(text)]


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def _scan(text: str) -> tuple[list[Box], bool]:
    """Outermost complete boxes, and True if the last box of the text is open."""
    groups: list[tuple[bool, int, int]] = []  # open groups: is a box, first character, start of the content
    closed: list[tuple[int, int, int]] = []  # boxes: first character, start of the content, closing brace
    first = _BOX.search(text)
    for match in _BRACES.finditer(text, first.start()) if first else ():
        if match["box"] or match.group() == "{":
            groups.append((match["box"] is not None, match.start(), match.end()))
        elif match.group() == "}" and groups:
            is_box, start, inside = groups.pop()
            if is_box:
                closed.append((start, inside, match.start()))
    closed.sort()
    last_open = max((start for is_box, start, _ in groups if is_box), default=-1)
    return _outermost(text, closed), last_open > max((start for start, _, _ in closed), default=-1)


def _outermost(text: str, closed: list[tuple[int, int, int]]) -> list[Box]:
    outermost: list[Box] = []
    index = 0
    while index < len(closed):
        start, position, end = closed[index]
        index += 1
        cuts: list[tuple[int, int]] = []  # wrappers of inner boxes
        while index < len(closed) and closed[index][0] < end:
            inner, inside, brace = closed[index]
            cuts += [(inner, inside), (brace, brace + 1)]
            index += 1
        pieces = []
        for cut, resume in sorted(cuts):
            pieces.append(text[position:cut])
            position = resume
        outermost.append(Box(start, end + 1, ("".join(pieces) + text[position:end]).strip()))
    return outermost
