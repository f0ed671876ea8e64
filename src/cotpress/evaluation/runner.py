"""Problems in, judged answers out: the same code for the evaluation stage and for validation during fine-tuning."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cotpress.answers import Extractor, judge
from cotpress.evaluation.config import check_samples
from cotpress.generation.base import Generation, Sampling
from cotpress.generation.hf import generate
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cotpress.modeling_config import ChatConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How problems are asked.

    Attributes:
        max_new_tokens: Budget per answer, in tokens.
        batch_tokens: Answers generated at once, counted as prompt plus budget; changes speed, not greedy answers.
        marker_ratio: Ratio announced by the control marker; None for students trained without one.
        samples: Answers per problem; each has a random stream of its own, so none depends on which others are drawn.
        sampling: How tokens are chosen; None is greedy.
    """

    max_new_tokens: int
    batch_tokens: int
    marker_ratio: float | None = None
    samples: int = 1
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        check_samples(self.samples, 0.0 if self.sampling is None else self.sampling.temperature)


def answer_problems(
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    chat: "ChatConfig",
    problems: Sequence[Problem],
    protocol: Protocol,
    *,
    system: str,
    ratio: float,
    skip: Container[tuple[str, int]] = (),
    on_done: Callable[[Prediction], None] | None = None,
    on_finished: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Judged answers in the problems' order, the samples of a problem one after the other.

    Args:
        model: Causal language model in eval mode.
        tokenizer: Its tokenizer.
        chat: Its conversation format.
        problems: What is asked.
        protocol: How it is asked.
        system: Name that the predictions carry.
        ratio: Asked kept fraction that the predictions carry.
        skip: Problem ids and samples that are not asked for, because they are answered already.
        on_done: Called with each prediction as soon as its batch is finished.
        on_finished: Called with a number of answers as soon as so many more have ended, within a batch too.
    """
    written = ChatFormat(tokenizer, chat)
    asked = [(p, k) for p in problems for k in range(protocol.samples) if (p.id, k) not in skip]
    prompts = [written.prompt_ids(p.question, protocol.marker_ratio) for p, _ in asked]
    room = max((len(p) for p in prompts), default=0) + protocol.max_new_tokens
    done: dict[int, Prediction] = {}

    def finish(index: int, generation: Generation) -> None:
        problem, sample = asked[index]
        done[index] = _judge(problem, generation, written, system, ratio, sample)
        if on_done is not None:
            on_done(done[index])

    generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=protocol.max_new_tokens,
        batch_size=max(protocol.batch_tokens // room, 1),
        sampling=protocol.sampling,
        streams=[f"{p.id}/{k}" for p, k in asked],
        on_done=finish,
        on_finished=on_finished,
    )
    return [done[i] for i in range(len(asked))]


def _judge(
    problem: Problem, generation: Generation, written: ChatFormat, system: str, ratio: float, sample: int = 0
) -> Prediction:
    thinking, response, closed = written.split_output(generation.text)
    # an answer that the budget cut off was not given, whatever number stands last in it
    ended = generation.finish_reason == "stop"
    verdict = judge(
        response if closed and response else generation.text,
        problem.answer,
        Extractor(problem.extractor),
        unanswerable=problem.unanswerable,
    )
    return Prediction(
        id=problem.id,
        family=problem.family,
        question=problem.question,
        answer=problem.answer,
        system=system,
        ratio=ratio,
        output=generation.text,
        predicted=verdict.predicted,
        correct=ended and verdict.correct,
        declined=ended and verdict.declined,
        num_tokens=generation.num_tokens,
        num_thinking_tokens=len(written.text_ids(thinking)) if closed else generation.num_tokens,
        finish_reason=generation.finish_reason,
        latency_s=generation.latency_s,
        sample=sample,
        closed=closed,
    )
