"""CTS, Conditional Token Selection: how much easier a thinking token becomes once the condition is known.

Computes  s_i = log p_RM(x_i | c, x_<i) - log p_RM(x_i | b, x_<i)   for thinking tokens x_i, reference model RM
Source    arXiv 2505.17827, section 3.2 (Score(x_i^thk | x^ans, x_<i^thk)); the paper's figure conditions on the
          written answer, texts about it on question and answer, so c is a setting: answer | question |
          question_answer. The paper's b is empty; c = question_answer with b = question scores the answer's share
          beyond the question.

The released code (LLMLingua 0.2.2, rank_method=longllmlingua, condition_compare=True) deviates: it keeps a token by
the score of the NEXT token, scores later windows on a prefix that is already compressed, uses no chat template
although its reference model was trained with one, no bos, and cuts the thinking at 5,000 tokens silently.
"""

from dataclasses import dataclass

from cotpress.errors import ConfigError
from cotpress.records import ReadTrace, Trace
from cotpress.scoring.base import ReadingScorer, Scores
from cotpress.scoring.config import Condition, ReadBy, TokenReadingConfig


@dataclass(kw_only=True, slots=True)
class CtsConfig(TokenReadingConfig):
    """Conditional Token Selection (arXiv 2505.17827)."""

    condition: Condition = Condition.answer
    """Text that makes important tokens easier."""
    baseline: Condition = Condition.none
    """Text of the reading it is compared with: none or question."""

    def check(self, *, has_reference: bool) -> None:
        """Refuse a baseline that holds the answer, and a condition that adds nothing to the baseline."""
        if self.baseline not in (Condition.none, Condition.question):
            raise ConfigError(f"scorer.baseline: got '{self.baseline.value}', allowed: none, question")
        if self.condition is Condition.none:
            raise ConfigError(
                "scorer.condition: got 'none', but the score is what a condition tells beyond scorer.baseline. "
                "Allowed: answer, question, question_answer. Fix: scorer.condition=answer, or scorer=self_information"
            )
        if self.condition is self.baseline:
            raise ConfigError(
                f"scorer.condition: got '{self.condition.value}', which is also scorer.baseline: every score would "
                "be 0. Fix: scorer.condition=answer"
            )


class CtsScorer(ReadingScorer[CtsConfig]):
    """Log-probability ratio of one model with and without the condition."""

    is_difference = True

    def readings(self) -> tuple[tuple[ReadBy, Condition], ...]:
        """See `ReadingScorer`."""
        return ((self.config.read_by, self.config.condition), (self.config.read_by, self.config.baseline))

    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """See `ReadingScorer`."""
        conditioned, unconditioned = readings
        return conditioned.logprob - unconditioned.logprob
