r"""Where a text states its answer: boxes, `answer is ...`, `#### ...`. Linear in the length of any text."""

import re
from dataclasses import dataclass

MAX_STATEMENT = 2000
"""Longest statement that is looked at, in characters; no benchmark answer comes near it."""
TAIL = 10_000
"""Characters at the end of a text among which a bare number can be its answer."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_CUT_BOX = re.compile(r"\\(?:boxed|fbox)\s*\Z")
_STATED = re.compile(r"(?:final\s+answer|\banswer)\**\s*(?:is(?![a-z])|:)\s*:?\**\s*:?\s*", re.IGNORECASE)
"""Not `isn't`, which states nothing; `is18` does, for students of compressed text leave out spaces."""
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]{0,1999})", re.MULTILINE)
_NUMBERED = re.compile(r"[\d.]+[.)]\s")
_BEGINS_VALUE = re.compile(r"[-+$\\(\[{]*\d|[$\\]")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_UNIT_WORDS = 2
"""`#### 12 square feet`."""
_MATH = re.compile(r"\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Box:
    r"""A complete `\boxed{...}` that lies in no other box.

    Attributes:
        start: Position of its backslash.
        end: Position after its closing brace.
        content: What is in it, boxes inside it opened: `2+\boxed{3}` reads `2+3`.
    """

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    """The complete outermost boxes, in order."""
    return _scan(text)[0]


def boxed(text: str) -> str:
    """Content of the last complete box that is not empty; empty if there is none."""
    return next((box.content for box in reversed(boxes(text)) if box.content), "")


def cut_off(text: str) -> bool:
    """Whether the text ends inside a box, so that the answer it was about to state is not there."""
    return _scan(text)[1] or _CUT_BOX.search(text, max(len(text) - 40, 0)) is not None


def stated(text: str) -> str:
    """What follows the last `answer is` or `answer:`, up to the end of its formula or sentence."""
    last = None
    for last in _STATED.finditer(text):  # noqa: B007 - the last match is what is wanted
        pass
    if last is None:
        return ""
    rest = text[last.end() : last.end() + MAX_STATEMENT]
    if math := _MATH.match(rest):
        return _inside(math)
    sentence = re.split(r"\n|\.(?=\s|$)", rest, maxsplit=1)[0]
    return sentence.strip().strip("*").strip()


def after_hashes(text: str) -> str:
    """What follows the last `####` that states an answer (GSM8K)."""
    return next((match.group(1).strip() for match in reversed(_answer_lines(text))), "")


def _answer_lines(text: str) -> list[re.Match[str]]:
    """Lines `#### ...` that state an answer: the last line of the text whatever it holds, above it no headings.

    `#### Step 2: the sum` is Markdown, `#### 1. Read the question` too; `#### 5 apples` is an answer.
    """
    end = len(text.rstrip())
    return [m for m in _HASHES.finditer(text) if m.end() >= end or not _is_heading(m.group(1))]


def _is_heading(line: str) -> bool:
    words = len(_WORD.findall(line))
    return _NUMBERED.match(line) is not None or words > (_UNIT_WORDS if _BEGINS_VALUE.match(line) else 0)


def statement_range(text: str) -> tuple[int, int] | None:
    r"""Where the last statement of an answer stands: its first character and one past its last.

    Of a box that is all of it, of `answer is ...` and `#### ...` what introduces the answer; of several kinds the one
    that `extract_answer` reads. None if the text states none, whatever number stands last in it.
    """
    if found := [box for box in boxes(text) if box.content]:
        return found[-1].start, found[-1].end
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
    """Outermost complete boxes, and whether the last box of the text is open."""
    groups: list[tuple[bool, int, int]] = []  # open so far: is a box, its first character, first of its content
    closed: list[tuple[int, int, int]] = []  # boxes: first character, first of the content, closing brace
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
    found: list[Box] = []
    index = 0
    while index < len(closed):
        start, position, end = closed[index]
        index += 1
        cuts: list[tuple[int, int]] = []  # wrappers of the boxes inside
        while index < len(closed) and closed[index][0] < end:
            inner, inside, brace = closed[index]
            cuts += [(inner, inside), (brace, brace + 1)]
            index += 1
        pieces = []
        for cut, resume in sorted(cuts):
            pieces.append(text[position:cut])
            position = resume
        found.append(Box(start, end + 1, ("".join(pieces) + text[position:end]).strip()))
    return found
