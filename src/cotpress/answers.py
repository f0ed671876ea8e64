r"""Final answers: where a solution states its own, and whether two mean the same.

One definition for filtering self-written traces, for the validation callback and for evaluation. Plain numbers,
fractions, percentages and choice letters are compared here, exactly and cheaply; everything else is parsed and
compared symbolically by math-verify. That happens in a child process: math-verify guards itself with
`signal.alarm`, which raises in threads and cannot stop a runaway big-integer power, while a process can be killed.
"""

import atexit
import functools
import json
import logging
import os
import re
import select
import subprocess
import sys
import threading
from fractions import Fraction

from cotpress.errors import CotpressError

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""Longest symbolic comparison of one pair; after it the pair counts as different."""
STARTUP_S = 120.0
"""Longest wait for the comparing process to import math-verify."""
MEMORY_BYTES = 4 * 2**30
"""Address space of the comparing process."""
MAX_CHARACTERS = 2000
"""Longest answer that is compared symbolically; no benchmark answer comes near it."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(r"(?:final\s+answer|\banswer)\**\s*(?:is|:)\s*:?\**\s*:?\s*", re.IGNORECASE)
_HASHES = re.compile(r"^\s*####[ \t]*(\S.*?)\s*$", re.MULTILINE)
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(rf"(?<![\w.,])-?\$?(?:{_INTEGER}(?:\.\d+)?|\.\d+)(?:/\d+)?%?|(?:{_INTEGER}(?:\.\d+)?|\.\d+)%?")


def extract_answer(text: str) -> str:
    r"""The answer that a solution states, or an empty string.

    Looked for in this order, the last occurrence of each: a complete `\boxed{...}`, `answer is ...`, `#### ...`,
    any number. A text that was cut off inside its box states no answer: whatever number stood before it was not it.
    """
    found = _boxed(text) or _stated(text) or _after_hashes(text)
    return found or ("" if _cut_off(text) else _last_number(text))


def is_equal(gold: str, predicted: str) -> bool:
    """Whether a predicted answer means the same as the gold answer.

    Never raises for any input; a comparison that takes longer than `TIMEOUT_S` counts as different. Safe in
    threads and in forked processes.

    Args:
        gold: The reference answer; it decides how the prediction is read (a number, a choice letter, LaTeX).
        predicted: What `extract_answer` found.

    Raises:
        CotpressError: math-verify cannot be started at all, so no verdict would mean anything.
    """
    gold, predicted = _normal(gold), _normal(predicted)
    if not gold or not predicted:
        return False
    if gold == predicted or (gold.casefold() == predicted.casefold() and re.fullmatch(r"[A-Za-z ]{2,}", gold)):
        return True
    if re.fullmatch(r"[A-J]", gold):
        return _choice(predicted) == gold
    expected, got = _quantity(gold), _quantity(predicted)
    if expected is not None and got is not None:
        return _same_quantity(expected, got)
    if expected is not None and not re.search(r"[\d\\]", predicted):
        return False
    if max(len(gold), len(predicted)) > MAX_CHARACTERS:
        return False
    return _symbolically_equal(gold, predicted)


# --- extraction -----------------------------------------------------------------------------------------------


def _boxed(text: str) -> str:
    found, position = "", 0
    while match := _BOX.search(text, position):
        end = _closing_brace(text, match.end())
        content = "" if end is None else _unbox(text[match.end() : end]).strip()
        found = content or found
        position = match.end() if end is None else end
    return found


def _closing_brace(text: str, start: int) -> int | None:
    """Position of the brace that closes the group whose content begins at `start`; None if it is cut off."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def _cut_off(text: str) -> bool:
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    opening = _BOX.match(text, max(start, 0))
    return start >= 0 and (
        _closing_brace(text, opening.end()) is None if opening else not text[start:].strip(" \\boxedf")
    )


def _unbox(content: str) -> str:
    r"""`content` with the boxes inside it opened: `2+\boxed{3}` becomes `2+3`."""
    while match := _BOX.search(content):
        end = _closing_brace(content, match.end())
        if end is None:
            return content
        content = content[: match.start()] + content[match.end() : end] + content[end + 1 :]
    return content


def _stated(text: str) -> str:
    matches = list(_STATED.finditer(text))
    if not matches:
        return ""
    rest = text[matches[-1].end() :]
    math = re.match(r"\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", rest, re.DOTALL)
    if math:
        return next(group for group in math.groups() if group is not None).strip()
    sentence = re.split(r"\n|\.(?=\s|$)", rest, maxsplit=1)[0]
    return sentence.strip().strip("*").strip()


def _after_hashes(text: str) -> str:
    found: list[str] = _HASHES.findall(text)
    return found[-1] if found else ""


def _last_number(text: str) -> str:
    last = ""
    for match in _NUMBER.finditer(text):
        last = match.group()
    return last


# --- comparison without sympy ---------------------------------------------------------------------------------

_REWRITES = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\\[!,;: ]|(?<!\\)~"), ""),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?<=\d)\{,\}(?=\d{3})"), ","),
    (re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|°"), " degrees "),
    (re.compile(r"\\?\$|\\\(|\\\)|\\\[|\\\]|\*\*"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile("[\u2212\u2013]"), "-"),
    (re.compile(r"\s+"), " "),
)
_UNSIGNED = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_UNIT = (
    r"(?: ?(?:[ckm]?m|km/h|mph|k?g|mg|lbs?|oz|ft|in|mi|yd|m?l|hrs?|h|s|min|[ap]m)\b| [A-Za-z][A-Za-z.'-]{2,})"
    r"(?: ?\^ ?\{?[23]\}?|[²³])?(?: [A-Za-z][A-Za-z./'-]*)*"
)
"""A short unit, or a word of three letters and more: `6 xy` is a product, not six of something."""
_QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:"
    rf"(?:(?P<whole>\d+)\s*)?\\frac\s*(?:\{{\s*(?P<fsign>-?)(?P<num>{_UNSIGNED})\s*\}}|(?P<num1>\d))"
    rf"\s*(?:\{{\s*(?P<den>{_UNSIGNED})\s*\}}|(?P<den1>\d))"
    rf"|(?:(?P<mixed>\d+) )?(?P<left>{_UNSIGNED})(?:\s*/\s*(?P<right>{_UNSIGNED}))?(?:[eE](?P<exp>[-+]?\d{{1,3}}))?"
    rf")\s*(?P<percent>%|percent\b)?(?P<unit>(?:{_UNIT})?)"
)
_SCALES = frozenset({"hundred", "thousand", "million", "billion", "trillion", "dozen", "squared", "cubed"})
_OPERATORS = frozenset({"sqrt", "sin", "cos", "tan", "log", "exp", "mod", "or", "and", "to"})


def _normal(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text[:-1].rstrip() if text.endswith(".") else text


def _choice(text: str) -> str:
    """The letter of a multiple-choice answer such as `(B)`, `B.` or `B) 12 cm`; empty if it is none."""
    match = re.match(r"\(?([A-Ja-j])(?:\)|[.:](?:\s|$)|$)", text)
    return match.group(1).upper() if match else ""


def _quantity(text: str) -> tuple[Fraction, bool, str] | None:
    """`(value, is a percentage, unit)` of a plain number, fraction or mixed number; None for anything else."""
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        return None
    unit = match["unit"].strip().lower()
    if not (_SCALES | _OPERATORS).isdisjoint(unit.split()):
        return None
    numerator = match["num"] or match["num1"] or match["left"]
    denominator = match["den"] or match["den1"] or match["right"] or "1"
    try:
        value = Fraction(numerator.replace(",", "")) / Fraction(denominator.replace(",", ""))
    except (ZeroDivisionError, ValueError):  # a ValueError is a number of more than 4,300 digits
        return None
    if match["fsign"]:
        value = -value
    value = (value + int(match["whole"] or match["mixed"] or 0)) * Fraction(10) ** int(match["exp"] or 0)
    return (-value if match["sign"] == "-" else value), match["percent"] is not None, unit


def _same_quantity(gold: tuple[Fraction, bool, str], predicted: tuple[Fraction, bool, str]) -> bool:
    (expected, expected_percent, unit), (got, got_percent, other_unit) = gold, predicted
    if unit and other_unit and unit[0] != other_unit[0]:  # hr and hours agree, hours and minutes do not
        return False
    if _close(expected, got):
        return True
    if expected_percent == got_percent:
        return False
    return _close(expected / 100, got) if expected_percent else _close(expected, got / 100)


def _close(a: Fraction, b: Fraction) -> bool:
    """Equal, or equal when a decimal expansion is rounded to six places (as in math-verify)."""
    return a == b or round(a, 6) == round(b, 6) != 0


# --- comparison with sympy, in a process that can be killed ---------------------------------------------------


class _Comparer:
    """A child process that runs math-verify, one pair at a time."""

    def __init__(self) -> None:
        start = f"import sys; sys.path[:] = {sys.path!r}; from cotpress.answers import _serve; _serve()"
        self.owner = os.getpid()
        # A session of its own: Ctrl-C reaches only the parent, whose end closes the pipe and so ends the child.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own text
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True,
        )  # fmt: skip
        if self._reply(STARTUP_S) != b"ready\n":
            self.close()
            raise CotpressError(
                "symbolic answer comparison: the math-verify process did not start. "
                'Fix: pip install "math-verify[antlr4-9-3]", then try: python -c "import math_verify"'
            )

    def compare(self, gold: str, predicted: str) -> bool | None:
        """The verdict, or None if there was none in time; the process is then gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([gold, predicted]).encode() + b"\n")
        except OSError:
            return None
        return {b"1\n": True, b"0\n": False}.get(self._reply(TIMEOUT_S))

    def _reply(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return os.read(self._process.stdout.fileno(), 64) if ready else b""

    def close(self) -> None:
        """End the process and free its pipes."""
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


_lock = threading.Lock()
_comparer: _Comparer | None = None


@functools.lru_cache(maxsize=4096)
def _symbolically_equal(gold: str, predicted: str) -> bool:
    global _comparer
    with _lock:
        if _comparer is None or _comparer.owner != os.getpid():  # a fork must not share its parent's pipe
            _comparer = _Comparer()
        verdict = _comparer.compare(gold, predicted)
        if verdict is None:
            log.warning("answers '%.60s' and '%.60s' could not be compared: counted as different", gold, predicted)
            _stop()
        return bool(verdict)


@atexit.register
def _stop() -> None:
    global _comparer
    if _comparer is not None:
        _comparer.close()
        _comparer = None


def _serve() -> None:
    """The child: one JSON pair per line in, `1` or `0` per line out, until the parent closes the pipe."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _verify("1", "2")  # imports and warms up before the clock runs
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        gold, predicted = json.loads(line)
        sys.stdout.write("1\n" if _verify(gold, predicted) else "0\n")
        sys.stdout.flush()


def _verify(gold: str, predicted: str) -> bool:
    import math_verify

    try:
        sides = [math_verify.parse(rf"\boxed{{{side}}}", parsing_timeout=None) for side in (gold, predicted)]
        return bool(math_verify.verify(sides[0], sides[1], timeout_seconds=None))
    except ImportError:
        raise
    except Exception:  # sympy raises whatever it likes on odd input: such a pair is different
        return False
