"""Excess loss: tokens that the reference model explains better than the base model.

Computes  s_i = log p_RM(x_i | c, x_<i) - log p_base(x_i | c, x_<i)  =  CE_base(x_i) - CE_RM(x_i)      in nats
Source    Rho-1, arXiv 2404.07965, equation 3, where it chooses the tokens that a model is pre-trained on.

Pooled by step it is the scorer `reference_gain` of our own: a step is kept whole if training on valuable thinking made
it more likely. The released code of Rho-1 has no scorer to deviate from.
"""

from dataclasses import dataclass

from cotpress.errors import ConfigError
from cotpress.records import ReadTrace, Trace
from cotpress.scoring.base import ReadingScorer, Scores
from cotpress.scoring.config import Condition, ReadBy, TokenReadingConfig


@dataclass(kw_only=True, slots=True)
class Rho1Config(TokenReadingConfig):
    """Excess loss of the base model over the reference model (Rho-1)."""

    def check(self, *, has_reference: bool) -> None:
        """Refuse a missing reference model, and a choice between the two models."""
        if not has_reference:
            raise ConfigError(
                f"scorer={self.name} compares the reference model with the base model, but reference=none: every "
                "score would be 0. Fix: reference=lora"
            )
        if self.read_by is not ReadBy.reference:
            raise ConfigError(
                f"scorer.read_by: got '{self.read_by.value}', but this scorer compares the reference model with the "
                "base model, allowed: reference"
            )


class Rho1Scorer(ReadingScorer[Rho1Config]):
    """Log-probability ratio of two models."""

    is_difference = True

    def readings(self) -> tuple[tuple[ReadBy, Condition], ...]:
        """See `ReadingScorer`."""
        return ((ReadBy.reference, self.config.condition), (ReadBy.base, self.config.condition))

    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """See `ReadingScorer`."""
        reference, base = readings
        return reference.logprob - base.logprob
