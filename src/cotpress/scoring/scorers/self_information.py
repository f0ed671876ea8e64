"""Self-information: how surprising a token is.

Computes  s_i = -log p(x_i | c, x_<i)      in nats
Source    Selective-Context, arXiv 2310.06201; LLMLingua, arXiv 2310.05736; the `LLMLingua` rows of arXiv 2505.17827
          are this score with an empty c, with the reference model and with the untrained base model.

The condition c is a setting: none | answer | question | question_answer. The released code (LLMLingua 0.2.2)
deviates as it does for CTS, see cts.py.
"""

from dataclasses import dataclass

from cotpress.records import ReadTrace, Trace
from cotpress.scoring.base import ReadingScorer, Scores
from cotpress.scoring.config import TokenReadingConfig


@dataclass(kw_only=True, slots=True)
class SelfInformationConfig(TokenReadingConfig):
    """Surprise: tokens that a language model would not have written (LLMLingua, Selective-Context)."""


class SelfInformationScorer(ReadingScorer[SelfInformationConfig]):
    """Negative log-probability."""

    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """See `ReadingScorer`."""
        return -readings[0].logprob
