"""Entropy: how uncertain the model is about a token before it reads it.

Computes  s_i = H(p(. | c, x_<i)) = - sum over words v of  p(v | c, x_<i) log p(v | c, x_<i)      in nats
Source    the entropy criterion of arXiv 2606.21704, by token; pooled by step it keeps the steps of high mean entropy.

Unlike self_information it ignores the token that came: a model that was certain and wrong gives it 0. The condition c
is a setting: none | answer | question | question_answer. No released code is known.
"""

from dataclasses import dataclass

from cotpress.records import ReadTrace, Trace
from cotpress.scoring.base import ReadingScorer, Scores
from cotpress.scoring.config import TokenReadingConfig


@dataclass(kw_only=True, slots=True)
class EntropyConfig(TokenReadingConfig):
    """Uncertainty about the token before it is read."""


class EntropyScorer(ReadingScorer[EntropyConfig]):
    """Entropy of the prediction of each token."""

    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """See `ReadingScorer`."""
        return readings[0].entropy
