"""First-token surprisal: keep the steps that begin unexpectedly, whole.

Computes  s_i = -log p(x_f | c, x_<f)      in nats, f = first token of i's step that is not white space alone
Source    arXiv 2508.05988 (ASAP): where a line of thought branches, the first token of the step is hard to predict;
          steps of low first-token surprisal are pruned first.

ASAP prunes with a language model's help before (anchor-guided pruning); this is its second stage alone. A step is a
sentence or a line (modeling/segments.py); the paper's are paragraphs. White space before a step tells how the line
before it ended, so the step begins after it.

The released code (Zengwh02/ASAP) deviates: it splits at blank lines, strips the pieces and scores the text joined
again, finds the first token of a paragraph by tokenizing the text before it plus one for bos, which is off by one
without bos and wherever a token reaches over the border, and removes the first of several equal paragraphs.
"""

from dataclasses import dataclass

import numpy as np

from cotpress.modeling.segments import is_blank, unit_ids
from cotpress.records import ReadTrace, Trace, Unit
from cotpress.scoring.base import ReadingScorer, Scores
from cotpress.scoring.config import ReadingConfig


@dataclass(kw_only=True, slots=True)
class FirstTokenSurprisalConfig(ReadingConfig):
    """Surprise at the first token of a step (arXiv 2508.05988)."""


class FirstTokenSurprisalScorer(ReadingScorer[FirstTokenSurprisalConfig]):
    """Negative log-probability of the token that a step begins with, for each token of the step."""

    def score(self, trace: Trace, *readings: ReadTrace) -> Scores:
        """See `ReadingScorer`."""
        offsets = readings[0].offsets
        steps = unit_ids(Unit.step, trace.thinking, offsets)
        # Stable, so the first entry of a step is its first visible token, or its first token if none is visible.
        order = np.lexsort((is_blank(trace.thinking, offsets), steps))
        return -readings[0].logprob[order[np.searchsorted(steps[order], steps)]]
