r"""An output without thinking tags as thinking and response.

An instruct model reasons and then states its answer. The thinking is the text before the sentence that states it, and
the response is one line, `The final answer is: $\boxed{...}$`, as TokenSkip (arXiv 2502.12067) writes it. A sentence
that computes the answer (`48 + 24 = \boxed{72}`) is reasoning and stays; so does a text that states no answer.
"""

import re

from cotpress.answers import statement_range
from cotpress.modeling.segments import step_ranges

_OPENS = re.compile(r"(?:\\\[|\$\$|.*:\**|[#*]+[^\n]*\banswer\b[^\n]*)\Z", re.DOTALL | re.IGNORECASE)
r"""A step that only leads to the next one: `\[`, `$$`, what ends in a colon, a heading that names the answer."""
_CLOSES = re.compile(r"(?:\\\]|\$\$)[.,]?\Z")


def answer_line(answer: str) -> str:
    r"""The response of a trace without one of its own: `The final answer is: $\boxed{72}$`."""
    return f"The final answer is: $\\boxed{{{answer}}}$"


def before_answer(text: str) -> str:
    """The reasoning before the sentence that states the answer; empty if there is nothing else.

    It is the beginning of `text` up to the start of a sentence or line, without white space around it.
    """
    stated = statement_range(text)
    if stated is None:
        return text.strip()
    steps = step_ranges(text)
    at = next(i for i, (_, end) in enumerate(steps) if stated[0] < end)
    start, end = steps[at]
    if "=" in text[start : stated[0]] + text[stated[1] : end]:
        while at + 1 < len(steps) and _CLOSES.match(text[slice(*steps[at + 1])].strip()):
            at += 1
        return text[: steps[at][1]].strip()
    while at and _OPENS.match(text[slice(*steps[at - 1])].strip()):
        at -= 1
    return text[: steps[at][0]].strip()
