"""The verdict on one output: what it answers, whether that is right, whether it declines to answer."""

import re
from typing import NamedTuple

from cotpress.answers.comparison import is_equal
from cotpress.answers.extraction import Extractor, extract_answer
from cotpress.answers.statements import MAX_STATEMENT, boxed, stated

_DECLINES = re.compile(
    r"insufficient|unanswerable|unsolvable|cannot be (?:uniquely )?\w+ed\b"
    r"|(?:not|n't|without|lacks?|lacking) (?:\w+ ){0,3}(?:enough|sufficient|necessary)"
    r" (?:\w+ ){0,2}(?:information|data|context)"
    r"|(?:missing|incomplete|inadequate) (?:\w+ ){0,2}(?:information|data|premise|condition|details|context|value)"
    r"|(?:cannot|can ?not|can't|could not|impossible to|not possible to|unable to|no way to) (?:be )?(?:\w+ly )?"
    r"(?:determine|solve|answer|compute|calculate|find|evaluate|know|give|provide)",
    re.IGNORECASE,
)
"""A sentence that declines."""
_NO_VALUE = re.compile(
    r"\b(?:undefined|unknown|indeterminate|not (?:well.)?defined|not (?:given|provided|specified))\b", re.I
)
"""What declines only as the answer itself; on the way to one it is said of other things."""


class Verdict(NamedTuple):
    """What became of one question.

    Attributes:
        predicted: The extracted answer; empty if there was none.
        correct: Whether it is right.
        declined: Whether the output says that the question has no answer.
    """

    predicted: str
    correct: bool
    declined: bool


def judge(text: str, gold: str, extractor: Extractor = Extractor.math, *, unanswerable: bool = False) -> Verdict:
    """What an output answers and whether that is right.

    An unanswerable question is answered rightly by saying so, and only by that: silence, a truncated text and any
    answer are wrong. On every other question declining is one more way of being wrong.

    Args:
        text: The written solution.
        gold: The reference answer; not looked at if `unanswerable`.
        extractor: What kind of answer is looked for.
        unanswerable: The question has no answer, for instance because a premise is missing.
    """
    declined = declines_to_answer(text)
    predicted = extract_answer(text, extractor)
    if unanswerable:
        return Verdict(predicted, declined, declined)
    return Verdict(predicted, is_equal(gold, predicted), declined)


def declines_to_answer(text: str) -> bool:
    r"""Whether a solution ends by saying that its question has no answer.

    What counts is what it commits to: `\boxed{\text{insufficient information}}` declines, and so do last paragraphs
    that say the problem cannot be solved and state no answer. A complaint on the way to an answer does not: of R1's
    102 solutions to questions with a missing premise (arXiv 2504.06514) 29 complain, but only 8 decline in the end.
    """
    if commitment := boxed(text) or stated(text):
        return any(said.search(commitment) for said in (_DECLINES, _NO_VALUE))
    ending = text.rstrip()[-MAX_STATEMENT:].split("\n\n")[-2:]
    return _DECLINES.search("\n\n".join(ending)) is not None
