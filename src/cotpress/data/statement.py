r"""The sentence that states the answer, where a text without thinking tags is divided.

An instruct model reasons and then states its answer. The thinking is the text before the sentence that states it. If
that sentence or a later one computes something (`48 + 24 = \boxed{72}`, a check at the end), or no answer is stated,
the whole text is the thinking, and the response is one line, `The final answer is: $\boxed{...}$`, as in TokenSkip
(arXiv 2502.12067).
"""

import re

from cotpress.answers import final_statement
from cotpress.modeling.segments import step_ranges

FINAL_LINE = "The final answer is:"
"""Begin of the last paragraph of a text that TokenSkip wrote."""
_OPENS = re.compile(r"(?:\\\[|\$\$|[^=]*:\**|[#*]+[^\n=]*\banswer\b[^\n=]*)\Z", re.IGNORECASE)
r"""A step that only introduces the next: `\[`, `$$`, a text that ends in a colon, a heading that names the answer."""


def answer_line(answer: str) -> str:
    r"""The response of a trace without one of its own: `The final answer is: $\boxed{72}$`."""
    return f"{FINAL_LINE} $\\boxed{{{answer}}}$"


def before_answer(text: str) -> str:
    """The reasoning before the sentence that states the answer, stripped; empty if there is none.

    It ends at the end of a sentence or line. Lines that only introduce the statement belong to the statement.
    """
    stated = final_statement(text)
    if stated is None:
        return text.strip()
    steps = step_ranges(text)
    at = next(i for i, (_, end) in enumerate(steps) if stated.start < end)
    outside = text[steps[at][0] : stated.start] + text[stated.end :]
    is_boxed, between = text.startswith("\\", stated.start), text[stated.start : stated.end].count("=")
    if "=" in outside or (is_boxed and between > stated.text.count("=")):  # the latter between boxes side by side
        return text.strip()
    while at and _OPENS.match(text[slice(*steps[at - 1])].strip()):
        at -= 1
    return text[: steps[at][0]].strip()


def stated(text: str, answer: str) -> tuple[str, str]:
    """Thinking and response of a text; without a sentence to divide it at, the response is a line with the answer."""
    before, line, after = text.strip().rpartition(f"\n\n{FINAL_LINE}")
    if line:
        return before.strip(), f"{FINAL_LINE}{after}"
    thinking = before_answer(text)
    response = text.strip().removeprefix(thinking).strip()
    return thinking, response or (answer_line(answer) if answer else "")
