"""Answers to predictions: the verdict on what was written."""

from pathlib import Path
from typing import Any

from cotpress import prompts
from cotpress.answers import Extractor, checker_fingerprint, judge
from cotpress.evaluation.asking import Answer
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem


def verdict_identity() -> dict[str, Any]:
    """What determines a verdict besides answer and problem: the code that gives it."""
    return {"checker": checker_fingerprint(Path(__file__), Path(prompts.__file__))}


def prediction(
    problem: Problem, answer: Answer, written: ChatFormat, *, system: str, ratio: float, thinks: bool
) -> Prediction:
    """The judged answer.

    Args:
        problem: What was asked.
        answer: What was written.
        written: The student's conversation format.
        system: Name that the prediction carries.
        ratio: Asked kept fraction that the prediction carries.
        thinks: The student was trained here to think in the layout of `written`. From any other model an output without
            tags is no thinking that was left open: it is all answer.
    """
    _, response, closed = written.split_output(answer.output)
    thinking_tokens = answer.num_thinking_tokens
    if not thinks and not (written.has_tags and (closed or written.begins_thinking(answer.output))):
        closed, thinking_tokens = True, 0
    # Without tags nothing sets the response apart from a remark after it, and who was never trained to this layout
    # makes some; so all of the output is looked through, for everybody, as it is where traces are selected.
    solution = response if written.has_tags and closed and response else answer.output
    # an answer that the budget cut off was not given, whatever number stands last in it
    ended = answer.finish_reason == "stop"
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
    )
