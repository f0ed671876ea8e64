"""Problems in, answers out: what a student wrote, without any verdict.

From the settings of the evaluation to what a student is asked under.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from cotpress.evaluation.baselines import Shortening
from cotpress.evaluation.config import EvaluationConfig, check_samples
from cotpress.generation.base import GREEDY, REFUSED, Backend, Generation, Sampling
from cotpress.prompts import ChatFormat, marker_text
from cotpress.records import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How problems are asked; all of it determines the answers.

    Attributes:
        max_new_tokens: Budget per answer, in tokens.
        context_tokens: Longest prompt plus answer; it ends an answer as the budget does.
        marker_ratio: Ratio announced by the control marker; None announces nothing, and is what 1 becomes: the same
            prompt must not be asked twice under two names.
        instruction: Said on a line of its own after the question; empty says nothing.
        samples: Answers per problem; each has a random stream of its own, so none depends on which others are drawn.
        sampling: How tokens are chosen; None is greedy.
    """

    max_new_tokens: int
    context_tokens: int
    marker_ratio: float | None = None
    instruction: str = ""
    samples: int = 1
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if self.marker_ratio is not None and not marker_text("{ratio}", self.marker_ratio):
            object.__setattr__(self, "marker_ratio", None)
        check_samples(self.samples, 0.0 if self.sampling is None else self.sampling.temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was written in answer to one problem.

    Attributes:
        id: The problem.
        sample: Index of the sample for this problem.
        output: Generated text, without the prompt.
        num_tokens: Generated tokens in the student's tokenizer, end token not counted.
        num_thinking_tokens: Those of them that lie before the text that closes a thinking; all of them where nothing
            does. Whether there was a thinking at all is for the verdict to say.
        retokenized: The backend did not say which tokens it wrote: both numbers are those of the output tokenized
            again, which can differ by a few where a model wrote other tokens for the same text.
        finish_reason: As in `cotpress.generation.base.Generation`.
        latency_s: As in `cotpress.generation.base.Generation`.
    """

    id: str
    sample: int
    output: str
    num_tokens: int
    num_thinking_tokens: int
    retokenized: bool
    finish_reason: str
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """One system's questions among those that are asked in one pass.

    Attributes:
        protocol: How it is asked.
        skip: Problem ids and samples that are not asked for, because they are answered already.
        on_done: Called with each answer as soon as it is there.
    """

    protocol: Protocol
    skip: Container[tuple[str, int]] = ()
    on_done: Callable[[Answer], None] | None = None


def ask(
    backend: Backend, written: ChatFormat, problems: Sequence[Problem], inquiries: Sequence[Inquiry]
) -> list[list[Answer]]:
    """Per inquiry its answers in the problems' order, the samples of a problem one after the other.

    All questions go to the backend as one list, so that several ratios or prompts of the same weights fill its batches
    together; each answer is the one that its inquiry alone would have got.

    Args:
        backend: Who writes.
        written: The student's conversation format.
        problems: What is asked.
        inquiries: How; all of them choose tokens in the same way.

    Raises:
        GenerationError: A server cannot be reached, refuses, or answers with something else.
    """
    (sampling,) = {inquiry.protocol.sampling for inquiry in inquiries}
    asked = [
        (number, p, k)
        for number, i in enumerate(inquiries)
        for p in problems
        for k in range(i.protocol.samples)
        if (p.id, k) not in i.skip
    ]
    prompts = [_prompt(written, problem, inquiries[number].protocol) for number, problem, _ in asked]
    done: dict[int, Answer] = {}

    def finish(index: int, generation: Generation) -> None:
        number, problem, sample = asked[index]
        done[index] = _answer(problem, sample, generation, written)
        on_done = inquiries[number].on_done
        if on_done is not None:
            on_done(done[index])

    backend.complete(
        prompts,
        max_new_tokens=[
            _budget(len(prompt), inquiries[number].protocol)
            for prompt, (number, _, _) in zip(prompts, asked, strict=True)
        ],
        sampling=sampling or GREEDY,
        streams=[f"{p.id}/{k}" for _, p, k in asked],
        on_done=finish,
    )
    return [[done[i] for i, (number, _, _) in enumerate(asked) if number == wanted] for wanted in range(len(inquiries))]


def _prompt(written: ChatFormat, problem: Problem, protocol: Protocol) -> list[int]:
    said = f"\n{protocol.instruction}" if protocol.instruction else ""
    return written.prompt_ids(problem.question + said, protocol.marker_ratio)


def _budget(prompt_tokens: int, protocol: Protocol) -> int:
    """What the context leaves; a prompt that fills it keeps its whole budget, so that the backend refuses it."""
    left = protocol.context_tokens - prompt_tokens
    return min(protocol.max_new_tokens, left) if left > 0 else protocol.max_new_tokens


def _answer(problem: Problem, sample: int, generation: Generation, written: ChatFormat) -> Answer:
    again = generation.token_ids is None and generation.finish_reason != REFUSED
    ids = written.text_ids(generation.text) if again else generation.token_ids or ()
    return Answer(
        id=problem.id,
        sample=sample,
        output=generation.text,
        num_tokens=len(ids),
        num_thinking_tokens=written.num_thinking_tokens(ids),
        retokenized=again,
        finish_reason=generation.finish_reason,
        latency_s=generation.latency_s,
    )


TEMPERATURE, TOP_P = 0.6, 0.95
"""For several samples per question, unless given: the values of CTS (arXiv 2505.17827, section 4.1)."""


def protocol(
    config: EvaluationConfig,
    *,
    max_new_tokens: int,
    context_tokens: int,
    seed: int,
    ratio: float = 1.0,
    marker_ratio: float | None = None,
    shortening: Shortening | None = None,
) -> Protocol:
    """How a student is asked.

    Args:
        config: The settings of the evaluation.
        max_new_tokens: The benchmark's budget.
        context_tokens: Longest prompt plus answer.
        seed: Seed of the draws.
        ratio: Asked kept fraction.
        marker_ratio: Ratio announced by the control marker, or None.
        shortening: What a baseline without training changes, or None.
    """
    truncates = shortening is not None and shortening.truncates
    follows = truncates or config.budget_follows_ratio
    return Protocol(
        max_new_tokens=answer_budget(max_new_tokens, ratio, follows_ratio=follows),
        context_tokens=context_tokens,
        marker_ratio=marker_ratio,
        instruction="" if shortening is None else shortening.instruction,
        samples=config.samples,
        sampling=sampling(config, seed),
    )


def sampling(config: EvaluationConfig, seed: int) -> Sampling | None:
    """How tokens are chosen; None is greedy."""
    temperature = (TEMPERATURE if config.samples > 1 else 0.0) if config.temperature is None else config.temperature
    if temperature == 0:
        return None
    return Sampling(temperature=temperature, top_p=TOP_P if config.top_p is None else config.top_p, seed=seed)


def answer_budget(max_new_tokens: int, ratio: float, *, follows_ratio: bool) -> int:
    """Tokens that an answer may take: the benchmark's budget, times the ratio only if that was asked for."""
    return max(round(max_new_tokens * ratio), 1) if follows_ratio else max_new_tokens
