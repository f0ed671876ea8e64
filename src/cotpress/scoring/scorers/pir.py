"""Step ablation: how much less likely the response becomes when a step of the thinking is left out.

Computes  s_i = 1/m sum over j of  [ log p(a_j | q, r, a_<j) - log p(a_j | q, r without S, a_<j) ]   in nats per token
          S step of token i, q condition, r thinking, a_1..a_m response or gold answer (`target`), in a chat with the
          end of the turn. The closing of the thinking is read but not counted.
Source    PIR, arXiv 2505.19187, eq. 1 to 3: the logarithm of the ratio of the perplexities of the answer, without the
          step and with it, which is this difference of means. SPIRIT (arXiv 2502.13260) measures the perplexity of the
          text without the step as well, and deletes or merges the step of the smallest increase, one after the other.

Deviations: a step is a sentence or a line (or `unit`), while the paper has a language model split the text; every step
is scored and may be deleted, while the paper classifies them (by phrases and a language model) and deletes only
verification, further methods and corrections. The paper's answer is the final answer: `target=answer`. No released code
was read. The tokens of a step are left out as they are, and its neighbours are not tokenized anew.

Cost for thinking of n tokens in k steps, response of m tokens: the text before a step comes from a key-value cache of
the whole, so step S costs the tokens after it. That is k (n/2 + m) tokens in all, half of reading every text anew, and
it grows with n^2 for steps of a given length. `ablation=attention` costs n + k m, in one pass over the thinking: there
only the text after the thinking does not see the step, and what follows the step in the thinking still knows it. So it
measures what the response takes from the step itself, and not through later steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.segments import unit_ids
from cotpress.records import Trace, Unit
from cotpress.scoring.config import ReadingConfig, Target
from cotpress.scoring.reader import ModelScorer


class Ablation(Enum):
    """Manner in which a step is left out."""

    text = "text"
    """All that follows the step is read again, as if it had never been written."""
    attention = "attention"
    """The closing and the text after it do not attend to the step; the thinking after the step has read it."""


@dataclass(kw_only=True, slots=True)
class PirConfig(ReadingConfig):
    """Fall of the response's log-probability without a step (PIR, arXiv 2505.19187)."""

    unit: Unit = Unit.step
    """Stretch that is left out as a whole; the cost grows with their number."""
    target: Target = Target.response
    """Text whose probability is measured."""
    ablation: Ablation = Ablation.text
    """Manner in which a step is left out: exact, or in time that grows with the length of the thinking alone."""


class PirScorer(ModelScorer[PirConfig]):
    """Log-ratio of perplexities without and with a step, for each of its tokens."""

    reads_response = True
    passes = None
    is_difference = True  # most steps change little
    edits_cache = True

    def following(self, trace: Trace) -> str:
        """See `ModelScorer`: the response, or the gold answer alone."""
        return trace.answer if self.config.target is Target.answer else trace.response

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """See `TokenScorer`."""
        spans = self.spans(trace)
        return np.repeat(self.falls(trace, spans), [len(span) for span in spans]).astype(np.float32)

    def spans(self, trace: Trace) -> list[range]:
        """Positions of the units in the text that the model reads, in order."""
        ids, offsets = self.tokens(trace)
        _, starts = np.unique(unit_ids(self.config.unit, trace.thinking, offsets), return_index=True)
        first = self.whole(trace)[1].start
        return [range(first + a, first + b) for a, b in pairwise([*starts.tolist(), len(ids)])]

    def falls(self, trace: Trace, spans: Sequence[range]) -> NDArray[np.float64]:
        """Falls of the target's mean log-probability without each of some spans, float64 `[len(spans)]`."""
        from cotpress.modeling.deletion import deletion_logprobs, hidden_logprobs

        ids, thinking, following = self.whole(trace)
        nothing = range(thinking.stop, thinking.stop)
        counted = np.zeros(len(ids), dtype=np.bool_)
        counted[following.start : following.stop] = True
        arguments = self._model, ids, [*spans, nothing], counted, self._reader.tokens_per_batch
        if self.config.ablation is Ablation.attention:
            logprobs = hidden_logprobs(*arguments, reread=thinking.stop)
        else:
            logprobs = deletion_logprobs(*arguments)
        falls: NDArray[np.float64] = (logprobs[-1] - logprobs[:-1]) / len(following)
        return falls
