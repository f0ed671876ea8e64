"""Verdict on one output: its answer, the answer's correctness, and whether it declines to answer."""

import re
from typing import NamedTuple

from cotpress.answers.comparison import is_equal
from cotpress.answers.extraction import Extractor, extract_answer, final_statement

_DECLINES = re.compile(
    r"insufficient|unanswerable|unsolvable|cannot be (?:uniquely )?\w+ed\b"
    r"|(?:not|n't|without|lacks?|lacking) (?:\w+ ){0,3}(?:enough|sufficient|necessary)"
    r" (?:\w+ ){0,2}(?:information|data|context)"
    r"|(?:missing|incomplete|inadequate) (?:\w+ ){0,2}(?:information|data|premise|condition|details|context|value)"
    r"|(?:cannot|can ?not|can't|could not|impossible to|not possible to|unable to|no way to) (?:be )?(?:\w+ly )?"
    r"(?:determine|solve|answer|compute|calculate|find|evaluate|know|give|provide)",
    re.IGNORECASE,
)
"""Sentences that decline to answer."""
_NO_VALUE = re.compile(
    r"\b(?:undefined|unknown|indeterminate|not (?:well.)?defined|not (?:given|provided|specified))\b", re.I
)
"""Words that decline only as the answer itself; elsewhere they describe other things."""


class Verdict(NamedTuple):
    """Verdict on the output for one question.

    Attributes:
        predicted: The extracted answer; empty if there is none.
        correct: True if it is right.
        declined: True if the output says that the question has no answer.
    """

    predicted: str
    correct: bool
    declined: bool


def judge(text: str, gold: str, extractor: Extractor = Extractor.math, *, unanswerable: bool = False) -> Verdict:
    """Extract the answer of an output and compare it with the gold answer.

    For an unanswerable question only declining is right: no answer, a truncated text and any answer are wrong. For
    every other question declining is wrong.

    Args:
        text: The written solution.
        gold: The reference answer; not used if `unanswerable`.
        extractor: Kind of answer.
        unanswerable: The question has no answer, for instance because a premise is missing.
    """
    declined = declines_to_answer(text)
    predicted = extract_answer(text, extractor)
    if unanswerable:
        return Verdict(predicted, declined, declined)
    return Verdict(predicted, is_equal(gold, predicted), declined)


def declines_to_answer(text: str) -> bool:
    r"""True if a solution ends by saying that its question has no answer.

    The final statement decides: `\boxed{\text{insufficient information}}` declines, and so do last paragraphs that
    state no answer and say that the problem cannot be solved. An earlier complaint does not decline: of R1's 102
    solutions to questions with a missing premise (arXiv 2504.06514) 29 complain, but only 8 decline in the end.
    """
    if statement := final_statement(text):
        return any(pattern.search(statement.text) for pattern in (_DECLINES, _NO_VALUE))
    ending = text.rstrip()[-2000:].split("\n\n")[-2:]
    return _DECLINES.search("\n\n".join(ending)) is not None
