"""Settings of the evaluation protocol."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from cotpress.errors import ConfigError, require
from cotpress.generation.config import GenerationConfig
from cotpress.settings import Amount, Count, Ratio, interval


class Baseline(Enum):
    """Systems that are evaluated beside the scorer's student."""

    base = "base"
    """The untuned model."""
    original = "original"
    """A student of the same recipe, trained on the uncompressed traces."""
    ratio_one = "ratio_one"
    """The same student asked for ratio 1: what its ActRatio is relative to. Only for students with a control marker."""
    be_concise = "be_concise"
    """Told to be concise; this and the following need no training and are `evaluation.prompted`."""
    only_numbers = "only_numbers"
    """Told to use only numbers or equations."""
    abbre_words = "abbre_words"
    """Told to abbreviate words."""
    lc_prompt = "lc_prompt"
    """Told to leave out the share of the words that the ratio asks for."""
    truncation = "truncation"
    """The token budget times the ratio; what is cut off has no answer."""


class Prompted(Enum):
    """Who the baselines without training are applied to."""

    student = "student"
    """What is not compressed: Original in train.py, the given model or adapter in evaluate.py."""
    base = "base"
    """The untuned model, as in TokenSkip's paper."""


@dataclass(kw_only=True, slots=True)
class Instructions:
    """What the baselines that only prompt say after the question."""

    be_concise: str = MISSING
    """Row BeConcise."""
    only_numbers: str = MISSING
    """Row OnlyNumbers."""
    abbre_words: str = MISSING
    """Row AbbreWords."""
    lc_prompt: str = MISSING
    """Row LC-Prompt; `{percent}` is replaced by 100 * (1 - ratio)."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """Config group `evaluation`."""

    baselines: list[Baseline] = field(default_factory=lambda: [Baseline.original, Baseline.ratio_one])
    """Rows of the table beside the scorer's own."""
    prompted: Prompted = Prompted.student
    """Who the baselines that need no training are applied to: student or base."""
    instructions: Instructions = field(default_factory=Instructions)
    """What those of them that only prompt say."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Which backend writes the answers; choose with generation@evaluation.generation=server. How tokens are chosen
    is said here, by samples, temperature and top_p, and not there."""
    ratios: list[Ratio] = field(default_factory=list)
    """Further ratios that a student with a control marker is asked for, in the same pass; a row for each."""
    confidence: Annotated[float, interval("(0, 1)")] = 0.95
    """Level of the intervals, in (0, 1)."""
    samples: Count = 1
    """Answers per question; accuracy is avg@k over them, and pass@k is reported."""
    temperature: Amount | None = None
    """0 is greedy; null is greedy for one sample and 0.6 (CTS) for several."""
    top_p: Annotated[float, interval("(0, 1]")] | None = None
    """Smallest set of likeliest tokens with this much probability, in (0, 1]; null is 0.95 (CTS) when sampling."""
    budget_follows_ratio: bool = False
    """Multiply benchmark.max_new_tokens by the ratio, as the papers do; truncating costs accuracy by itself."""
    budgets: list[Count] = field(default_factory=list)
    """Token budgets at which accuracy is compared, the end token included; empty takes the quartiles of what Original's
    answers take."""
    reference_tokenizer: str | None = None
    """Hub id or folder of a tokenizer in which outputs are counted as well (CTS: Qwen/Qwen2.5-7B-Instruct)."""

    def validate(self, key: str) -> None:
        """Refuse an LC-Prompt without a place for the share, and sampling settings that have no effect."""
        if Baseline.lc_prompt in self.baselines:
            text = self.instructions.lc_prompt
            require(f"{key}.instructions.lc_prompt", text, "{percent}" in text, "a text with {percent} in it")
        check_samples(self.samples, self.temperature)
        greedy = self.temperature == 0 or (self.temperature is None and self.samples == 1)
        if self.top_p is not None and self.top_p < 1 and greedy:
            raise ConfigError(
                f"{key}.top_p: got {self.top_p}, but answers are greedy, so it would do nothing. "
                f"Fix: {key}.temperature=0.6, or {key}.top_p=null"
            )
        for name, value in (("temperature", self.generation.temperature), ("top_p", self.generation.top_p)):
            if value is not None:
                raise ConfigError(
                    f"{key}.generation.{name}: got {value}, but {key}.{name} decides it. Fix: {key}.{name}={value}"
                )


def check_samples(samples: int, temperature: float | None) -> None:
    """Refuse several samples that greedy decoding would make all the same.

    Raises:
        ConfigError: There are several samples, and the temperature is 0.
    """
    if samples > 1 and temperature == 0:
        raise ConfigError(
            f"evaluation.samples: got {samples} at temperature 0, where all samples of a question are the same. "
            "Fix: evaluation.temperature=0.6, or evaluation.samples=1"
        )
