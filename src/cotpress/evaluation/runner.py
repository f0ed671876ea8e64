"""Questions in, checked answers out: one definition for the evaluate stage and for validation during training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotpress.answers import extract_answer, is_equal
from cotpress.generation.base import Generation
from cotpress.generation.hf import generate
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a system is asked.

    Attributes:
        system: Row of the results table.
        ratio: Kept fraction the student was trained for.
        marker_ratio: Ratio announced in the prompt, or None where the student knows no marker.
        max_new_tokens: Budget per answer.
        batch_size: Answers generated at once; does not change them.
    """

    system: str
    ratio: float
    marker_ratio: float | None
    max_new_tokens: int
    batch_size: int


def answer_problems(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    chat: ChatFormat,
    problems: Sequence[Problem],
    protocol: Protocol,
    on_done: Callable[[Prediction], None] | None = None,
) -> list[Prediction]:
    """Greedy answers to `problems`, checked, in their order; `on_done` gets each as its batch ends."""
    prompts = [chat.prompt_ids(p.question, protocol.marker_ratio) for p in problems]
    predictions: dict[int, Prediction] = {}

    def done(index: int, generation: Generation) -> None:
        predictions[index] = check(problems[index], generation, chat, protocol)
        if on_done is not None:
            on_done(predictions[index])

    generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=protocol.max_new_tokens,
        batch_size=protocol.batch_size,
        on_done=done,
    )
    return [predictions[i] for i in range(len(problems))]


def check(problem: Problem, generation: Generation, chat: ChatFormat, protocol: Protocol) -> Prediction:
    """The verdict on one generation.

    The answer is looked for in the response; in the whole text if the thinking was never closed. An answer that
    the budget ended is wrong, whatever number it had come to.
    """
    thinking, response, closed = chat.split_output(generation.text)
    predicted = extract_answer(response if closed else generation.text)
    complete = generation.finish_reason == "stop"
    num_thinking = min(len(chat.text_ids(thinking)), generation.num_tokens) if closed else generation.num_tokens
    return Prediction(
        id=problem.id,
        family=problem.family,
        question=problem.question,
        answer=problem.answer,
        system=protocol.system,
        ratio=protocol.ratio,
        output=generation.text,
        predicted=predicted,
        correct=complete and bool(predicted) and is_equal(problem.answer, predicted),
        num_tokens=generation.num_tokens,
        num_thinking_tokens=num_thinking,
        finish_reason=generation.finish_reason,
        latency_s=generation.latency_s,
    )
