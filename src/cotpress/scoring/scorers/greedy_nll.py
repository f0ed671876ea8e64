"""Greedy deletion: the first token to go is the one whose absence lowers the likelihood of the rest least.

Computes  s_i = place of token i in the deletion order, 0 for the first deleted, n - 1 for the last survivor
          each round deletes  argmax_i  J(r without i),   J(r) = log p(r | q) + log p(a | q, r)
          q condition, r remaining thinking, a response, in a chat with the end of the turn
Source    arXiv 2601.03066, greedy pruning with the joint objective over thinking and answer.

The published algorithm is deletions_per_round = 1; k > 1 deletes the k best of a round at once, and the order may
differ widely. Of equal candidates the earlier token is deleted first, as in the release. The closing of the thinking is
read but not counted: it measures how ready the model is to stop. The released code deviates: it minimises the
perplexity, which is the same order, and counts all text after the thinking, closing and chat markup included.

A trace of n tokens costs n / k rounds of n candidates each, so the length is limited. Keys and values of the full text
are computed once; every batch of neighbouring deletions starts from the part of them that its texts share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotpress.records import Trace
from cotpress.scoring.config import ReadingConfig
from cotpress.scoring.reader import ModelScorer
from cotpress.settings import Count


@dataclass(kw_only=True, slots=True)
class GreedyNllConfig(ReadingConfig):
    """Greedy deletion by joint likelihood of the remaining thinking and the response (arXiv 2601.03066)."""

    max_tokens: Count = 128
    """Longest thinking that is scored; the cost grows with its square in forward passes."""
    deletions_per_round: Count = 1
    """Tokens deleted before all candidates are tried again; 1 is the published algorithm."""


class GreedyNllScorer(ModelScorer[GreedyNllConfig]):
    """Deletion order."""

    reads_response = True
    passes = None
    is_difference = True  # the texts that are compared differ in one token
    edits_cache = True

    def refusal(self, trace: Trace) -> str | None:
        """See `ModelScorer`; also refuses thinking over the limit."""
        if (reason := super().refusal(trace)) is not None or self.num_tokens(trace) <= self.config.max_tokens:
            return reason
        return f"thinking longer than scorer.max_tokens={self.config.max_tokens}"

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """See `TokenScorer`."""
        ids, thinking, following = self.whole(trace)
        counted = np.zeros(len(ids), dtype=np.bool_)
        counted[thinking.start : thinking.stop] = counted[following.start : following.stop] = True
        remaining, deleted = list(range(len(thinking))), []
        while len(remaining) > 1:
            text = [*range(thinking.start), *(thinking.start + i for i in remaining), *range(thinking.stop, len(ids))]
            joint = self._joint(
                [ids[t] for t in text], range(thinking.start, thinking.start + len(remaining)), counted[text]
            )
            best = np.argsort(-joint, kind="stable")[: self.config.deletions_per_round]
            deleted += [remaining[i] for i in best]
            remaining = [token for i, token in enumerate(remaining) if i not in set(best.tolist())]
        scores = np.empty(len(thinking), dtype=np.float32)
        scores[deleted + remaining] = np.arange(len(thinking))
        return scores

    def _joint(self, ids: list[int], deletable: range, counted: NDArray[np.bool_]) -> NDArray[np.float64]:
        """J of the text without one of the deletable tokens, for each of them.

        Deleting any token out of a run of equal ones gives the same text; it is read once, so their values are equal.
        """
        from cotpress.modeling.deletion import deletion_logprobs

        runs = [p for p in deletable if p == deletable.start or ids[p] != ids[p - 1]]
        spans = [range(p, p + 1) for p in runs]
        values = deletion_logprobs(self._model, ids, spans, counted, self._reader.tokens_per_batch)
        return np.repeat(values, np.diff([*runs, deletable.stop]))
