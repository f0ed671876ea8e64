r"""An output without thinking tags as thinking and response.

An instruct model reasons and then states its answer. The thinking is the text before the sentence that states it, and
the response is one line, `The final answer is: $\boxed{...}$`, as TokenSkip (arXiv 2502.12067) writes it. Where the
sentence itself or one after it computes something (`48 + 24 = \boxed{72}`, a check at the end), all of the text is
reasoning; so it is where no answer is stated.
"""

import re

from cotpress.answers import statement_range
from cotpress.modeling.segments import step_ranges

_OPENS = re.compile(r"(?:\\\[|\$\$|[^=]*:\**|[#*]+[^\n=]*\banswer\b[^\n=]*)\Z", re.IGNORECASE)
r"""A step that only leads to the next one: `\[`, `$$`, what ends in a colon, a heading that names the answer."""


def answer_line(answer: str) -> str:
    r"""The response of a trace without one of its own: `The final answer is: $\boxed{72}$`."""
    return f"The final answer is: $\\boxed{{{answer}}}$"


def before_answer(text: str) -> str:
    """The reasoning before the sentence that states the answer, stripped; empty if there is nothing else.

    It ends where a sentence or line ends, and the lines that only lead to the statement go with the statement.
    """
    stated = statement_range(text)
    if stated is None:
        return text.strip()
    steps = step_ranges(text)
    at = next(i for i, (_, end) in enumerate(steps) if stated[0] < end)
    if "=" in text[steps[at][0] : stated[0]] + text[stated[1] :]:
        return text.strip()
    while at and _OPENS.match(text[slice(*steps[at - 1])].strip()):
        at -= 1
    return text[: steps[at][0]].strip()
