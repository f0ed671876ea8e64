"""Settings of the evaluation protocol."""

from dataclasses import dataclass, field
from enum import Enum

from cotpress.errors import ConfigError


class Baseline(Enum):
    """Systems that are evaluated beside the scorer's student."""

    base = "base"
    """The untuned model."""
    original = "original"
    """A student of the same recipe, trained on the uncompressed traces."""
    ratio_one = "ratio_one"
    """The same student asked for ratio 1: what its ActRatio is relative to. Only for students with a control marker."""


@dataclass(kw_only=True, slots=True)
class EvaluationConfig:
    """Config group `evaluation`."""

    baselines: list[Baseline] = field(default_factory=lambda: [Baseline.original, Baseline.ratio_one])
    """Rows of the table beside the scorer's own."""
    confidence: float = 0.95
    """Level of the intervals, in (0, 1)."""
    samples: int = 1
    """Answers per question; accuracy is avg@k over them, and pass@k is reported."""
    temperature: float | None = None
    """0 is greedy; null is greedy for one sample and 0.6 (CTS) for several."""
    top_p: float | None = None
    """Smallest set of likeliest tokens with this much probability, in (0, 1]; null is 0.95 (CTS) when sampling."""
    budget_follows_ratio: bool = False
    """Multiply benchmark.max_new_tokens by the ratio, as the papers do; truncating costs accuracy by itself."""
    budgets: list[int] = field(default_factory=list)
    """Token budgets at which accuracy is compared; empty takes the quartiles of Original's generated tokens."""
    reference_tokenizer: str | None = None
    """Hub id or folder of a tokenizer in which outputs are counted as well (CTS: Qwen/Qwen2.5-7B-Instruct)."""


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
