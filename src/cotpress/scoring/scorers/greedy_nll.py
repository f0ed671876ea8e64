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

Shape suffixes: L positions of the full text, B deletions in a batch, R positions of their rest, N counted positions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from cotpress.devices.memory import smaller_batches
from cotpress.records import Trace
from cotpress.scoring.config import ReadingConfig
from cotpress.scoring.reader import ModelScorer
from cotpress.settings import Count

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from cotpress.modeling.loading import SplitModel


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
        remaining, deleted = list(range(len(thinking))), []
        while len(remaining) > 1:
            end = thinking.start + len(remaining)
            joint = deletion_logprobs(
                self._model,
                [*ids[: thinking.start], *(ids[thinking.start + i] for i in remaining), *ids[thinking.stop :]],
                deletable=range(thinking.start, end),
                uncounted=range(end, end + following.start - thinking.stop),
                tokens_per_batch=self._reader.tokens_per_batch,
            )
            best = np.argsort(-joint, kind="stable")[: self.config.deletions_per_round]
            deleted += [remaining[i] for i in best]
            remaining = [token for i, token in enumerate(remaining) if i not in set(best.tolist())]
        scores = np.empty(len(thinking), dtype=np.float32)
        scores[deleted + remaining] = np.arange(len(thinking))
        return scores


def deletion_logprobs(
    model: torch.nn.Module, ids: Sequence[int], *, deletable: range, uncounted: range, tokens_per_batch: int
) -> NDArray[np.float64]:
    """log p of the text after the context, with one of the deletable tokens left out, for each of them, in nats.

    Deleting any token out of a run of equal ones gives the same text; it is computed once, so their values are equal.
    The tokens before the deletable ones, at least one, are the context; at least one follows. The model is in eval
    mode, with or without PEFT; `tokens_per_batch` changes speed and memory only.

    Returns:
        float64 `[len(deletable)]`, sums over the remaining deletable tokens and all that follows, without the positions
        `uncounted`, which are only read.
    """
    if not 0 < deletable.start < deletable.stop < len(ids):
        raise ValueError(f"the deletable positions {deletable} need a token before and a token after them")
    import torch
    from transformers import DynamicCache

    from cotpress.modeling.loading import split_head

    with torch.inference_mode():
        split = split_head(model)
        ids_L = torch.tensor(ids, device=next(split.decoder.parameters()).device)
        counted_L = torch.ones(len(ids), dtype=torch.bool, device=ids_L.device)
        counted_L[: deletable.start] = False
        counted_L[uncounted.start : uncounted.stop] = False
        # Without its config the cache keeps every position in every layer, also where attention slides.
        cache = DynamicCache()
        logprobs_L = torch.nn.functional.pad(_counted_logprobs(split, cache, ids_L[None], counted_L[None])[0], (1, 0))
        before_L = logprobs_L.cumsum(0) - logprobs_L

        def left_out(batch: Sequence[int]) -> list[float]:
            # The token before the first deletion is read again: it predicts the first token that differs.
            start = batch[0] - 1
            place_R = torch.arange(start, len(ids_L) - 1, device=ids_L.device)
            place_BR = place_R + (place_R >= torch.tensor(batch, device=ids_L.device)[:, None])
            shared = DynamicCache()
            if start:
                shared = copy.deepcopy(cache)
                shared.crop(start - shared.get_seq_length())
                shared.batch_repeat_interleave(len(batch))
            rest_B = _counted_logprobs(split, shared, ids_L[place_BR], counted_L[place_BR]).sum(dim=1)
            return cast("list[float]", (before_L[batch[0]] + rest_B).tolist())

        runs = [p for p in deletable if p == deletable.start or ids[p] != ids[p - 1]]
        values: list[float] = []
        smaller = smaller_batches(model, "reading a text without each of its tokens")
        while len(values) < len(runs):
            batch = runs[len(values) :][: max(tokens_per_batch // (len(ids) - runs[len(values)]), 1)]
            values += smaller.run(batch, left_out, lambda place: len(ids) - place)
        return np.repeat(np.array(values), np.diff([*runs, deletable.stop]))


def _counted_logprobs(
    split: SplitModel, cache: DynamicCache, ids_BL: torch.Tensor, counted_BL: torch.Tensor
) -> torch.Tensor:
    """Log-probability of each token but the first, 0 where it is not counted, float64 `[B, L - 1]`.

    The tokens are read after those in the cache, and all but the last are added to it.
    """
    import torch

    from cotpress.modeling.head import target_logprobs
    from cotpress.modeling.loading import cache_argument

    output = split.decoder(input_ids=ids_BL[:, :-1], **cache_argument(cache), use_cache=True)
    counted = counted_BL[:, 1:]
    values_N = target_logprobs(split.head, output.last_hidden_state[counted], ids_BL[:, 1:][counted])
    logprobs = torch.zeros(counted.shape, dtype=torch.float64, device=ids_BL.device)
    logprobs[counted] = values_N.double()
    return logprobs
