"""How problems are put to a student: prompt, budget and sampling, and the record of one answer.

Includes the ways to shorten answers that need no training (the baselines of TokenSkip, arXiv 2502.12067, section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cotpress.evaluation.config import Baseline, EvaluationConfig, Instructions, check_samples
from cotpress.generation.backends import CTS_TEMPERATURE, CTS_TOP_P, REFUSED, Generation, Request, Sampling
from cotpress.prompts import ChatFormat, marker_text
from cotpress.records import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Everything that, with model and problems, determines the answers.

    Attributes:
        max_new_tokens: Budget per answer, in tokens.
        context_tokens: Longest prompt plus answer; ends an answer as the budget does.
        marker_ratio: Ratio announced by the control marker, or None. A ratio without a marker text (1) becomes None,
            so that the same prompt does not get two identities.
        instruction: Line after the question; empty adds none.
        samples: Answers per problem, each with its own random stream.
        sampling: Choice of the next token; None is greedy.
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

    def requests(self, problems: Sequence[Problem], chat: ChatFormat) -> dict[str, Request]:
        """One request per problem and sample, by `answer_key`, in the order of the problems."""
        requests = {}
        for problem in problems:
            line = f"\n{self.instruction}" if self.instruction else ""
            prompt = chat.prompt_ids(problem.question + line, self.marker_ratio)
            room = self.context_tokens - len(prompt)
            # A prompt that fills the context keeps the whole budget, so that the backend refuses it.
            budget = min(self.max_new_tokens, room) if room > 0 else self.max_new_tokens
            for sample in range(self.samples):
                key = answer_key(problem.id, sample)
                requests[key] = Request(prompt=prompt, max_new_tokens=budget, stream=key)
        return requests


def answer_key(problem_id: str, sample: int) -> str:
    """Key of an answer, and name of its stream of random numbers."""
    return f"{problem_id}/{sample}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A student's answer to one problem, not yet judged.

    Attributes:
        id: The problem.
        sample: Index of the sample for this problem.
        output: Generated text, without the prompt.
        num_tokens: Generated tokens in the student's tokenizer, end token not counted.
        num_thinking_tokens: Tokens before the text that closes a thinking; all tokens if nothing closes it. The verdict
            decides whether there was a thinking at all.
        retokenized: The backend did not return token ids, so both numbers count the output tokenized again. They can be
            off by a few where the model wrote other tokens for the same text.
        finish_reason: As in `cotpress.generation.backends.Generation`.
        latency_s: As in `cotpress.generation.backends.Generation`.
    """

    id: str
    sample: int
    output: str
    num_tokens: int
    num_thinking_tokens: int
    retokenized: bool
    finish_reason: str
    latency_s: float

    @classmethod
    def of(cls, problem: Problem, sample: int, generation: Generation, chat: ChatFormat) -> Self:
        """The answer that a completion holds."""
        retokenized = generation.token_ids is None and generation.finish_reason != REFUSED
        ids = chat.text_ids(generation.text) if retokenized else generation.token_ids or ()
        return cls(
            id=problem.id,
            sample=sample,
            output=generation.text,
            num_tokens=len(ids),
            num_thinking_tokens=chat.num_thinking_tokens(ids),
            retokenized=retokenized,
            finish_reason=generation.finish_reason,
            latency_s=generation.latency_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortening:
    """Change of the protocol by a baseline that needs no training; its ratio is 1 if it names no number."""

    name: str
    ratio: float = 1.0
    instruction: str = ""
    truncates: bool = False


def shortening(kind: Baseline, ratio: float, instructions: Instructions) -> Shortening | None:
    """The change that `kind` makes; None if it is no such baseline or shortens nothing at ratio 1."""
    match kind:
        case Baseline.be_concise:
            return Shortening(name="BeConcise", instruction=instructions.be_concise)
        case Baseline.only_numbers:
            return Shortening(name="OnlyNumbers", instruction=instructions.only_numbers)
        case Baseline.abbre_words:
            return Shortening(name="AbbreWords", instruction=instructions.abbre_words)
        case Baseline.lc_prompt if ratio < 1:
            text = instructions.lc_prompt.replace("{percent}", f"{100 * (1 - ratio):g}")
            return Shortening(name="LC-Prompt", ratio=ratio, instruction=text)
        case Baseline.truncation if ratio < 1:
            return Shortening(name="Truncation", ratio=ratio, truncates=True)
    return None


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
    """The protocol of one system; `max_new_tokens` is the budget of the benchmark, `seed` that of the draws."""
    truncates = shortening is not None and shortening.truncates
    return Protocol(
        max_new_tokens=answer_budget(max_new_tokens, ratio, follows_ratio=truncates or config.budget_follows_ratio),
        context_tokens=context_tokens,
        marker_ratio=marker_ratio,
        instruction="" if shortening is None else shortening.instruction,
        samples=config.samples,
        sampling=sampling(config, seed),
    )


def sampling(config: EvaluationConfig, seed: int) -> Sampling | None:
    """Choice of the next token; None is greedy."""
    default = CTS_TEMPERATURE if config.samples > 1 else 0.0
    temperature = default if config.temperature is None else config.temperature
    if temperature == 0:
        return None
    return Sampling(temperature=temperature, top_p=CTS_TOP_P if config.top_p is None else config.top_p, seed=seed)


def answer_budget(max_new_tokens: int, ratio: float, *, follows_ratio: bool) -> int:
    """Tokens per answer: the budget of the benchmark, times the ratio if `follows_ratio`."""
    return max(round(max_new_tokens * ratio), 1) if follows_ratio else max_new_tokens
