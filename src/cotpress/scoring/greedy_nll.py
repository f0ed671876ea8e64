"""Greedy deletion: tokens go in the order in which the likelihood of what stays suffers least.

Computes  s_i = place of token i in the deletion order, 0 for the first deleted, n - 1 for the last survivor
          each round deletes  argmax_i  J(r without i),   J(r) = log p(r | q) + log p(a | q, r)
          q condition, r remaining thinking, a response
Source    arXiv 2601.03066, greedy pruning with the joint objective over thinking and answer.

With deletions_per_round = k > 1 the k best of a round go at once, best first. The published algorithm is k = 1, and
the two may differ widely: after one deletion other tokens become the cheapest. Of equal candidates the earlier token
is deleted first, as in the release; deleting one token out of a run of equal ones gives the same text, so those are
equal exactly. The text that closes the thinking is read, but its log-probability is not counted: it says how ready
the model is to stop, not what the tokens are worth. In the chat template the end of the turn is the last token of a.

The released code deviates: it minimises the perplexity, the mean over a number of tokens that is the same for all
candidates of a round and so the same order; it counts all text after the thinking, closing and chat markup included;
it reads every candidate whole, with vLLM. Here what the candidates of a round share is computed once.

A trace of n tokens costs n / k rounds of n candidates each, so the length is limited.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.deletions import deletion_logprobs
from cotpress.records import Trace
from cotpress.scoring.config import GreedyNllConfig
from cotpress.scoring.reader import Reader, ReadingScorer, Whole


class GreedyNllScorer(ReadingScorer):
    """Deletion order."""

    reads_response = True

    def __init__(self, config: GreedyNllConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model, self._max_tokens, self._per_round = model, config.max_tokens, config.deletions_per_round

    def refusal(self, trace: Trace) -> str | None:
        """See `ReadingScorer`; also refuses thinking over the limit."""
        too_long = self.num_tokens(trace) > self._max_tokens
        return super().refusal(trace) or (self._over_limit() if too_long else None)

    def _over_limit(self) -> str:
        return f"thinking longer than scorer.max_tokens={self._max_tokens}"

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`; one trace at a time."""
        for trace in traces:
            order = self._deletion_order(self.whole(trace))
            scores = np.empty(len(order), dtype=np.float32)
            scores[order] = np.arange(len(order))
            yield scores

    def _deletion_order(self, whole: Whole) -> list[int]:
        """Indices of thinking tokens, first deleted first."""
        context, thinking = whole.ids[: whole.thinking.start], whole.ids[whole.thinking.start : whole.thinking.stop]
        after = whole.ids[whole.thinking.stop :]
        num_closing = whole.following.start - whole.thinking.stop
        remaining, deleted = list(range(len(thinking))), []
        while len(remaining) > 1:
            end = len(context) + len(remaining)
            joint = deletion_logprobs(
                self._model,
                [*context, *(thinking[i] for i in remaining), *after],
                deletable=range(len(context), end),
                uncounted=range(end, end + num_closing),
                tokens_per_batch=self._reader.tokens_per_batch,
            )
            best = np.argsort(-joint, kind="stable")[: self._per_round]
            deleted += [remaining[i] for i in best]
            remaining = [token for i, token in enumerate(remaining) if i not in set(best.tolist())]
        return deleted + remaining
