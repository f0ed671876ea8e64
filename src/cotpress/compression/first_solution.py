"""The first step of a thinking that states the right answer (`compression.mode=first_solution`).

Source: arXiv 2605.13165 (STOP). Its ECN keeps the shortest prefix that ends at the earliest node that is an answering
conclusion and yields the correct final answer. In the paper a language model annotates nodes and conclusions; the
release (chenjux/ECN-STOP, pipeline/prune_ecn.py) drops traces without such a node, and appends the last sentence of the
thinking to some prefixes. Our reading:

    nodes        steps (`modeling.segments`): sentences and lines
    conclusions  steps that announce an answer, as rules find it (`cotpress.answers`); with `statement=concluded` also
                 steps that begin with `So`, `Therefore` and the like, with the result that ends them; a step that ends
                 with a question mark states nothing
    correct      as an evaluation judges it
    otherwise    a trace that never states the right answer stays whole, and is counted; nothing is appended

The checks are linear in the number of steps, and each reads at most `WINDOW` characters and the step itself: a text
that was checked without a statement may be the beginning of one, as in `The answer is:` before a formula, and is read
with the next steps; one with a statement is not read again.
"""

import re

from cotpress.answers import Extractor, announced_answer, extract_answer, final_statement, is_equal
from cotpress.compression.config import Statement
from cotpress.modeling.segments import step_ranges

WINDOW = 1000
"""Characters before a step that are read with it."""
_CONCLUDES = re.compile(
    r"[\s\W]*(?:so|therefore|thus|hence|consequently|in conclusion|(?:this|that|which) (?:means|gives|makes))\b", re.I
)
_QUESTION = re.compile(r"\?[\s\"'\u201d\u2019)\]}*_$]*\Z")


def first_solution(
    thinking: str, answer: str, *, extractor: Extractor = Extractor.math, statement: Statement = Statement.announced
) -> int | None:
    """Return the index of the first step that states the answer; None if no step does.

    Args:
        thinking: The chain of thought.
        answer: Gold answer; one that is announced as that of a solution (`#### 12`) is read as an evaluation does.
        extractor: Kind of the answer.
        statement: Steps that state an answer.
    """
    announced = final_statement(answer)
    gold = (answer if announced is None else announced.text).strip()
    if not gold:
        return None
    checked: dict[str, bool] = {}
    unread = 0  # end of the last step with a statement
    for index, (start, end) in enumerate(step_ranges(thinking)):
        step = thinking[start:end]
        stated = announced_answer(thinking[max(unread, start - WINDOW) : end], extractor)
        if stated:
            unread = end
        elif statement is Statement.concluded and _CONCLUDES.match(step):
            stated = extract_answer(step, extractor)
        if not stated or _QUESTION.search(step):
            continue
        if stated not in checked:
            checked[stated] = is_equal(gold, stated)
        if checked[stated]:
            return index
    return None
