"""Prompt, budget and sampling with which a student answers problems, and the record of one answer.

Includes the ways to shorten answers that need no training: the baselines of TokenSkip (arXiv 2502.12067, section 4.1),
Chain of Draft (arXiv 2502.18600) and budget forcing (`cotpress.evaluation.forcing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from cotpress.evaluation.config import Baseline, EvaluationConfig
from cotpress.evaluation.forcing import Forcing
from cotpress.generation.backends import CTS_TEMPERATURE, CTS_TOP_P, REFUSED, Generation, Request, Sampling
from cotpress.prompts import ChatFormat
from cotpress.records import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Everything that, with model and problems, determines the answers."""

    max_new_tokens: int  # budget per answer, in tokens
    context_tokens: int  # longest prompt plus answer; ends an answer as the budget does
    # Ratio announced by the control marker, or None. A ratio without a marker text (1) becomes None, so that the same
    # prompt does not get two identities.
    marker_ratio: float | None = None
    instruction: str = ""  # line after the question; empty adds none
    samples: int = 1  # answers per problem, each with its own random stream
    sampling: Sampling | None = None  # choice of the next token; None is greedy
    forcing: Forcing | None = None  # limit of the thinking; None sets none

    def __post_init__(self) -> None:
        if self.marker_ratio is not None and self.marker_ratio >= 1:
            object.__setattr__(self, "marker_ratio", None)

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
    """A student's answer to one problem, not yet judged."""

    id: str  # of the problem
    sample: int  # index of the sample for this problem
    output: str  # generated text, without the prompt
    num_tokens: int  # generated tokens in the student's tokenizer, end token not counted
    # Tokens before the text that closes a thinking; all tokens if nothing closes it. The verdict decides whether there
    # was a thinking at all.
    num_thinking_tokens: int
    # The backend did not return token ids, so both numbers count the output tokenized again. They can be off by a few
    # where the model wrote other tokens for the same text.
    retokenized: bool
    finish_reason: str  # this and the next as in `cotpress.generation.backends.Generation`
    latency_s: float

    @classmethod
    def of(cls, problem: Problem, sample: int, generation: Generation, chat: ChatFormat) -> Self:
        """The answer that a completion holds."""
        retokenized = generation.token_ids is None and generation.finish_reason != REFUSED
        ids = chat.output_ids(generation.text) if retokenized else generation.token_ids or ()
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
    forcing: Forcing | None = None


def shortening(kind: Baseline, ratio: float, config: EvaluationConfig) -> Shortening | None:
    """The change that `kind` makes; None if it is no such baseline or shortens nothing at ratio 1."""
    instructions, forced = config.instructions, config.budget_forcing
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
        case Baseline.chain_of_draft:
            return Shortening(name="Chain-of-Draft", instruction=instructions.chain_of_draft)
        case Baseline.budget_forcing if forced.thinking_tokens is not None:
            forcing = Forcing(num_tokens=forced.thinking_tokens, text=forced.text)
            return Shortening(name="BudgetForcing", forcing=forcing)
        case Baseline.budget_forcing if ratio < 1:
            forcing = Forcing(num_tokens=None, share=ratio, text=forced.text)
            return Shortening(name="BudgetForcing", ratio=ratio, forcing=forcing)
    return None


def protocol(
    config: EvaluationConfig,
    *,
    max_new_tokens: int,
    context_tokens: int,
    usual: Sampling,
    ratio: float = 1.0,
    marker_ratio: float | None = None,
    shortening: Shortening | None = None,
) -> Protocol:
    """The protocol of one system; `max_new_tokens` and `usual` are the budget and the sampling of the benchmark."""
    follows_ratio = config.budget_follows_ratio or (shortening is not None and shortening.truncates)
    return Protocol(
        max_new_tokens=max(round(max_new_tokens * ratio), 1) if follows_ratio else max_new_tokens,
        context_tokens=context_tokens,
        marker_ratio=marker_ratio,
        instruction="" if shortening is None else shortening.instruction,
        samples=config.samples,
        sampling=sampling(config, usual),
        forcing=None if shortening is None else shortening.forcing,
    )


def sampling(config: EvaluationConfig, usual: Sampling) -> Sampling | None:
    """Choice of the next token, with the seed of `usual`, the sampling of the benchmark; None is greedy.

    The settings of `evaluation` come first. Without them several samples of a greedy benchmark are drawn as in CTS.
    """
    drawn = replace(usual, temperature=CTS_TEMPERATURE, top_p=CTS_TOP_P) if usual.temperature == 0 else usual
    temperature = (drawn if config.samples > 1 else usual).temperature
    if config.temperature is not None:
        temperature = config.temperature
    if temperature == 0:
        return None
    return replace(drawn, temperature=temperature, top_p=drawn.top_p if config.top_p is None else config.top_p)
