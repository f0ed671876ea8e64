"""Judging: an answer becomes a prediction, the answer with its verdict."""

from cotpress.answers import Extractor, judge
from cotpress.evaluation.protocol import Answer
from cotpress.generation.backends import STOP
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem

ANSWER_LINE = "\n\nThe final answer is:"
"""Beginning of the line with the answer; the release of TokenSkip (evaluation.py) counts the tokens before it."""


def prediction(
    problem: Problem,
    answer: Answer,
    chat: ChatFormat,
    *,
    system: str,
    ratio: float,
    thinks: bool,
    answer_in_thinking: bool = False,
) -> Prediction:
    """The judged answer of a student with the conversation format `chat`.

    `thinks` is true for a student that was trained here to think in the layout of `chat`. For any other model an output
    without tags is all answer, not a thinking that was left open. `answer_in_thinking` judges the thinking of an
    output that has no text after it.
    """
    _, response, closed = chat.split_output(answer.output)
    thinking_tokens = answer.num_thinking_tokens
    thought = chat.has_tags and (thinks or closed or chat.begins_thinking(answer.output))
    without_thinking = ratio == 0 and not chat.has_tags and not closed  # as in its training
    if not thought and (not thinks or without_thinking):
        closed, thinking_tokens = True, 0
    # A thinking that was left open, or that nothing follows, is no answer, even if a number in it is the right one.
    # Without tags nothing separates the response from a later remark, which untrained models often add. So the whole
    # output is searched, for all systems, as in the selection of self-written traces.
    solution = response if thought and (response or not answer_in_thinking) else answer.output
    ended = answer.finish_reason == STOP  # a number in an answer that the budget cut off is not its answer
    verdict = judge(solution, problem.answer, Extractor(problem.extractor), unanswerable=problem.unanswerable)
    return Prediction(
        id=problem.id,
        family=problem.family,
        question=problem.question,
        answer=problem.answer,
        system=system,
        ratio=ratio,
        output=answer.output,
        predicted=verdict.predicted,
        correct=ended and verdict.correct,
        declined=ended and verdict.declined,
        num_tokens=answer.num_tokens,
        num_thinking_tokens=thinking_tokens,
        finish_reason=answer.finish_reason,
        latency_s=answer.latency_s,
        sample=answer.sample,
        closed=closed,
        num_cot_tokens=chat.num_text_tokens(answer.output.partition(ANSWER_LINE)[0]),
    )
