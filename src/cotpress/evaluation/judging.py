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
        thinks: The student was trained here to think between tags. From any other model an output without tags is no
            thinking that was left open: it is all answer.
    """
    thinking, response, closed = written.split_output(answer.output)
    thinking_tokens = len(written.text_ids(thinking)) if closed else answer.num_tokens
    if not closed and not (thinks or written.begins_thinking(answer.output)):
        closed, thinking_tokens = True, 0
    # an answer that the budget cut off was not given, whatever number stands last in it
    ended = answer.finish_reason == "stop"
    verdict = judge(
        response or answer.output, problem.answer, Extractor(problem.extractor), unanswerable=problem.unanswerable
    )
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
