"""Reference walk: keep what the reference model would have written itself after what it has kept so far.

Computes  s_u = mean over i in u of  log p_RM(x_i | c, k_<u, x_<i within u)      for unit u (a word), for all its tokens
          k_<u = the units v before u with s_v >= -max_surprise
Source    ours. The reference model has only ever seen valuable thinking; in reference_likelihood it reads every
          digression too, and after "Wait, let me double-check:" it finds likely what it would not write by itself.
          Here it walks along the text and reads on only from what it finds likely: what it passes over is dropped, and
          a repeated equation is as unlikely as any other digression once it has been kept before.

What is kept for reading on is not yet the compressed text: the scores are ranked like any other scorer's, so every
ratio is met. There is no released code to deviate from.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.memory import smaller_batches
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.segments import unit_ids
from cotpress.modeling.selective_reading import selective_logprobs
from cotpress.records import Trace
from cotpress.scoring.config import ReferenceWalkConfig
from cotpress.scoring.reader import Reader, ReadingScorer


class ReferenceWalkScorer(ReadingScorer):
    """Log-probability of words under a model that forgets what it finds unlikely."""

    def __init__(self, config: ReferenceWalkConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader)
        self._model, self._unit, self._max_surprise = model, config.unit, config.max_surprise

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        smaller = smaller_batches(self._model, f"score {self.name}", "trainer.generation_tokens")
        for batch in self._batches(traces):
            yield from smaller.run(batch, self._walk, self.num_tokens)

    def _walk(self, batch: Sequence[Trace]) -> list[NDArray[np.float32]]:
        counts = [self._unit_lengths(trace) for trace in batch]
        texts = [_split(self._reader.thinking_ids(t), lengths) for t, lengths in zip(batch, counts, strict=True)]
        contexts = [self._reader.context_ids(self._condition, trace) for trace in batch]
        means = selective_logprobs(self._model, contexts, texts, self._max_surprise)
        return [np.repeat(values, lengths) for values, lengths in zip(means, counts, strict=True)]

    def _unit_lengths(self, trace: Trace) -> NDArray[np.int64]:
        """Tokens per unit, int64 `[num_units]`, all at least 1."""
        _, offsets = tokenize_with_offsets(self._tokenizer, trace.thinking)
        _, lengths = np.unique(unit_ids(self._unit, trace.thinking, offsets), return_counts=True)
        return lengths.astype(np.int64)

    def _batches(self, traces: Sequence[Trace]) -> Iterator[list[Trace]]:
        """Consecutive traces whose padded size is within the budget; at least one."""
        batch: list[Trace] = []
        longest = 0
        for trace in traces:
            longest = max(longest, self.num_tokens(trace))
            if batch and longest * (len(batch) + 1) > self._reader.tokens_per_batch:
                yield batch
                batch, longest = [], self.num_tokens(trace)
            batch.append(trace)
        if batch:
            yield batch


def _split(ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if len(lengths) else []
