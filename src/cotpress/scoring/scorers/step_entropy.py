"""Step entropy: keep the steps about which the model was uncertain, whole.

Computes  s_i = H(S | c, x_<S) = sum over tokens j of i's step S of  H(p(. | c, x_<j))      in nats
Source    arXiv 2508.03346: the entropy of a step is the sum of its token entropies; the 80 % of the steps that are
          lowest in it can be pruned.

The sum grows with the length of a step, as in the paper: long steps are kept before short ones. The mean instead is
`scorer=entropy scorer.pooling=step`. A step is a sentence or a line (modeling/segments.py); the paper's are paragraphs.

The released code (staymylove/COT_Compresstion_via_Step_entropy) deviates: it samples the trace and takes
-p(x_j) log p(x_j) of the sampled token alone, which is one summand of the entropy, averages it over the step instead
of summing, ends a step only where a token is exactly a blank line, merges steps of equal text, and writes [SKIP] for
pruned steps.
"""

from dataclasses import dataclass

import numpy as np

from cotpress.modeling.segments import unit_ids
from cotpress.records import ReadTrace, Trace, Unit
from cotpress.scoring.base import ReadingScorer, Scores
from cotpress.scoring.config import ReadingConfig


@dataclass(kw_only=True, slots=True)
class StepEntropyConfig(ReadingConfig):
    """Entropy of whole steps (arXiv 2508.03346)."""


class StepEntropyScorer(ReadingScorer[StepEntropyConfig]):
    """Sum of the token entropies of a step, for each of its tokens."""

    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """See `ReadingScorer`."""
        steps = unit_ids(Unit.step, trace.thinking, readings[0].offsets)
        return np.bincount(steps, weights=readings[0].entropy)[steps].astype(np.float32)
