"""Reference likelihood: keep the tokens that the reference model would have written itself.

Computes  s_i = log p_RM(x_i | c, x_<i),   replaced by the mean over i's word (or step) unless pooling=token
Source    ours. The reference model was trained on the valuable part of thinking texts alone, so a compressed text would
          go on with the tokens that it finds likely; the ratio of CTS divides that information out.

It is the opposite order of self_information with the same model. There is no released code to deviate from.
"""

from dataclasses import dataclass

from cotpress.records import ReadTrace, Trace
from cotpress.scoring.base import ReadingScorer, Scores
from cotpress.scoring.config import TokenReadingConfig


@dataclass(kw_only=True, slots=True)
class ReferenceLikelihoodConfig(TokenReadingConfig):
    """Likelihood under the reference model."""


class ReferenceLikelihoodScorer(ReadingScorer[ReferenceLikelihoodConfig]):
    """Log-probability under the reference model."""

    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """See `ReadingScorer`."""
        return readings[0].logprob
