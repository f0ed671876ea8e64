"""Settings of evaluation."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from cotpress.errors import ConfigError, require
from cotpress.generation.config import GenerationConfig
from cotpress.settings import Amount, Count, InputPath, Ratio, interval


class Baseline(Enum):
    """Systems that are evaluated beside the student of the scorer."""

    base = "base"
    """The untuned model."""
    original = "original"
    """A student of the same recipe, trained on the uncompressed traces."""
    random = "random"
    """A student of the same recipe, trained on the same traces cut at random: the control of the scorer, with its
    ratio, unit and all other settings of `compression`."""
    ratio_one = "ratio_one"
    """The same student at ratio 1, the reference of its ActRatio; only for a student with a control marker."""
    be_concise = "be_concise"
    """Prompt to be concise. This and the following need no training; `evaluation.prompted` chooses their model."""
    only_numbers = "only_numbers"
    """Prompt to use only numbers or equations."""
    abbre_words = "abbre_words"
    """Prompt to abbreviate words."""
    lc_prompt = "lc_prompt"
    """Prompt to leave out the share of the words that the ratio removes."""
    truncation = "truncation"
    """The token budget times the ratio; an answer that is cut off is wrong."""
    chain_of_draft = "chain_of_draft"
    """Prompt to keep a draft of a few words for each step (Chain of Draft, arXiv 2502.18600)."""
    budget_forcing = "budget_forcing"
    """The thinking is closed after a number of tokens, and the answer asked for (s1, arXiv 2501.19393)."""
    shortest = "shortest"
    """A student of the same recipe, trained on the shortest right one of several answers that a model wrote to each of
    the run's questions (arXiv 2602.13407)."""


SHORTENED_TO_RATIO = {Baseline.lc_prompt, Baseline.truncation, Baseline.budget_forcing}
"""Baselines that need no training and use the ratio of the run."""
TRAINED = {Baseline.original, Baseline.random, Baseline.shortest}
"""Baselines that are students, which evaluate.py does not train."""


class Prompted(Enum):
    """Model of the baselines that need no training."""

    student = "student"
    """The uncompressed system: Original in train.py, the given model or adapter in evaluate.py."""
    base = "base"
    """The untuned model, as in TokenSkip's paper."""


@dataclass(kw_only=True, slots=True)
class Instructions:
    """Lines after the question, one for each baseline that only prompts."""

    be_concise: str = MISSING
    """Row BeConcise."""
    only_numbers: str = MISSING
    """Row OnlyNumbers."""
    abbre_words: str = MISSING
    """Row AbbreWords."""
    lc_prompt: str = MISSING
    """Row LC-Prompt; `{percent}` is replaced by 100 * (1 - ratio)."""
    chain_of_draft: str = MISSING
    """Row Chain-of-Draft."""


@dataclass(kw_only=True, slots=True)
class BudgetForcingConfig:
    """Row BudgetForcing: after so many tokens the thinking is closed, and the model goes on after `text`."""

    thinking_tokens: Count | None = None
    """Tokens of thinking; null is the ratio times the mean of the same model's own answers without a limit."""
    text: str = MISSING
    """Text after the closing of the thinking, which begins the response; empty adds none."""


@dataclass(kw_only=True, slots=True)
class ShortestConfig:
    """Row Shortest: answers to the questions of the run's traces, of which the shortest right ones are learned."""

    samples: Count | None = None
    """Answers per question; null is that of self-written data with several, otherwise 8."""
    writer: InputPath | None = None
    """Weights that answer, as `data.writer`; null is the writer of self-written data, for other data `sft.start`."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """Config group `evaluation`."""

    baselines: list[Baseline] = field(default_factory=lambda: [Baseline.original, Baseline.ratio_one])
    """Further rows of the table."""
    prompted: Prompted = Prompted.student
    """Model of the baselines that need no training: student or base."""
    instructions: Instructions = field(default_factory=Instructions)
    """Texts of the baselines that only prompt."""
    budget_forcing: BudgetForcingConfig = field(default_factory=BudgetForcingConfig)
    """Settings of the baseline budget_forcing."""
    shortest: ShortestConfig = field(default_factory=ShortestConfig)
    """Settings of the baseline shortest."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Backend that generates the answers; choose with generation@evaluation.generation=vllm or server. Sampling is set
    by `samples`, `temperature` and `top_p` here, not there."""
    ratios: list[Ratio] = field(default_factory=list)
    """Further ratios for a student with a control marker, in the same pass; one row each."""
    confidence: Annotated[float, interval("(0, 1)")] = 0.95
    """Level of the intervals, in (0, 1)."""
    samples: Count = 1
    """Answers per question; accuracy is avg@k over them, and pass@k is reported."""
    temperature: Amount | None = None
    """0 is greedy; null is that of the benchmark's protocol, or 0.6 (CTS) for several samples of a greedy one."""
    top_p: Annotated[float, interval("(0, 1]")] | None = None
    """Smallest set of likeliest tokens with this much probability, in (0, 1]; null is that of the
    benchmark's protocol, or 0.95 (CTS) where that is greedy and answers are sampled."""
    budget_follows_ratio: bool = False
    """Multiply benchmark.max_new_tokens by the ratio, as TokenSkip does for MATH; truncation alone costs accuracy."""
    answer_in_thinking: bool = False
    """Judge the thinking of an output that has no text after it; false counts such an output as without an answer."""
    budgets: list[Count] = field(default_factory=list)
    """Token budgets at which accuracy is compared, the end token included; empty takes the quartiles of the lengths of
    Original's answers."""
    reference_tokenizer: InputPath | None = None
    """Hub id or folder of a second tokenizer in which outputs are counted (CTS: Qwen/Qwen2.5-7B-Instruct)."""

    def validate(self, key: str) -> None:
        """Refuse an LC-Prompt without a place for the share, and several samples that would all be the same."""
        if Baseline.lc_prompt in self.baselines:
            text = self.instructions.lc_prompt
            require(f"{key}.instructions.lc_prompt", text, "{percent}" in text, "a text with {percent} in it")
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(
                f"{key}.samples: got {self.samples} at temperature 0, where all samples of a question are the same. "
                f"Fix: {key}.temperature=0.6, or {key}.samples=1"
            )
        for name, value in (("temperature", self.generation.temperature), ("top_p", self.generation.top_p)):
            if value is not None:
                raise ConfigError(
                    f"{key}.generation.{name}: got {value}, but {key}.{name} decides it. Fix: {key}.{name}={value}"
                )
