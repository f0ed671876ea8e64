"""Settings of the evaluation protocol."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from cotpress.errors import ConfigError, require
from cotpress.generation.config import GenerationConfig
from cotpress.settings import Amount, Count, Ratio, interval


class Baseline(Enum):
    """Systems that are compared with the student of the scorer."""

    base = "base"
    """The untuned model."""
    original = "original"
    """A student of the same recipe, trained on the uncompressed traces."""
    ratio_one = "ratio_one"
    """The same student at ratio 1, the reference of ActRatio; only for students with a control marker."""
    be_concise = "be_concise"
    """An instruction to be concise. This baseline and the following need no training; see `evaluation.prompted`."""
    only_numbers = "only_numbers"
    """An instruction to use only numbers or equations."""
    abbre_words = "abbre_words"
    """An instruction to abbreviate words."""
    lc_prompt = "lc_prompt"
    """An instruction to leave out a share of the words, 1 - ratio."""
    truncation = "truncation"
    """A token budget multiplied by the ratio; a truncated output has no answer."""


class Prompted(Enum):
    """Models that the baselines without training are applied to."""

    student = "student"
    """The uncompressed student: Original in train.py, the given model or adapter in evaluate.py."""
    base = "base"
    """The untuned model, as in TokenSkip's paper."""


@dataclass(kw_only=True, slots=True)
class Instructions:
    """Instructions after the question, one for each prompted baseline."""

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
    """Systems in the table beside the student."""
    prompted: Prompted = Prompted.student
    """Model that the baselines without training are applied to: student or base."""
    instructions: Instructions = field(default_factory=Instructions)
    """Instructions of the prompted baselines."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """Backend that generates the answers; choose with generation@evaluation.generation=server. Its sampling follows
    `temperature` and `top_p` below."""
    ratios: list[Ratio] = field(default_factory=list)
    """Further ratios at which a student with a control marker is evaluated, each a row of the table."""
    confidence: Annotated[float, interval("(0, 1)")] = 0.95
    """Level of the intervals, in (0, 1)."""
    samples: Count = 1
    """Answers per question; accuracy is avg@k, and pass@k is reported."""
    temperature: Amount | None = None
    """0 is greedy; null is greedy for one sample and 0.6 (CTS) for several."""
    top_p: Annotated[float, interval("(0, 1]")] | None = None
    """Probability mass of nucleus sampling, in (0, 1]; null is 0.95 (CTS) when sampling."""
    budget_follows_ratio: bool = False
    """Multiply benchmark.max_new_tokens by the ratio, as in the papers; truncation alone lowers accuracy."""
    budgets: list[Count] = field(default_factory=list)
    """Token budgets at which accuracy is compared, the end token included; empty takes the quartiles of the lengths of
    Original's answers."""
    reference_tokenizer: str | None = None
    """Hub id or folder of a second tokenizer for token counts (CTS: Qwen/Qwen2.5-7B-Instruct)."""

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
    """Refuse several samples with greedy decoding, which would be equal.

    Raises:
        ConfigError: There are several samples, and the temperature is 0.
    """
    if samples > 1 and temperature == 0:
        raise ConfigError(
            f"evaluation.samples: got {samples} at temperature 0, where all samples of a question are the same. "
            "Fix: evaluation.temperature=0.6, or evaluation.samples=1"
        )
