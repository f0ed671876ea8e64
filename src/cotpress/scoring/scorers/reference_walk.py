"""Reference walk: keep what the reference model would have written itself after the tokens kept so far.

Computes  s_u = mean over i in u of  log p_RM(x_i | c, k_<u, x_<i within u)      for unit u (a word), for all its tokens
          k_<u = the units v before u with s_v >= -max_surprise
Source    ours; no released code to deviate from. In reference_likelihood the model reads every digression too, and
          after "Wait, let me double-check:" finds likely what it would not write by itself. Here it reads on only
          from the units that it finds likely. The kept units are not yet the compressed text: every ratio is met.

Texts advance together, one unit per forward pass. A forgotten unit is masked in the key-value cache until the cache is
next compacted, and positions count the kept tokens, so every text is read as if its forgotten units did not exist.

Shape suffixes: B texts, L cached positions, W tokens of the longest unit, D hidden size, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from cotpress.devices.memory import smaller_batches
from cotpress.modeling.segments import unit_ids
from cotpress.records import Trace, Unit
from cotpress.scoring.config import ReadingConfig
from cotpress.scoring.reader import ModelScorer, padded_batches
from cotpress.settings import Positive

if TYPE_CHECKING:
    import torch

    from cotpress.modeling.loading import SplitModel
    from cotpress.scoring.models import Models

COMPACT_ABOVE = 1.5
"""Drop masked columns when the cache is this many times as long as any text's kept tokens; costs about one step."""
_Tokens = Sequence[int]
"""Token ids of a unit, which are kept or forgotten together."""


@dataclass(kw_only=True, slots=True)
class ReferenceWalkConfig(ReadingConfig):
    """Likelihood under the reference model after the kept part of the text before."""

    unit: Unit = Unit.word
    """Unit that is kept or forgotten as a whole, and scored by its mean."""
    max_surprise: Positive = 2.0
    """A unit stays in the text that the model has read if its mean -log p is at most this, in nats; > 0."""


class ReferenceWalkScorer(ModelScorer[ReferenceWalkConfig]):
    """Log-probability of words under a model that forgets unlikely ones."""

    passes = None
    edits_cache = True

    @classmethod
    def build(cls, config: ReferenceWalkConfig, models: Models) -> Self:
        """See `TokenScorer`: it keeps keys and values of all its texts, as generation does, and takes small steps."""
        return cls._built(config, models, models.trainer.generation_tokens)

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        smaller = smaller_batches(self._model, f"score {self.name}", "trainer.generation_tokens")
        for batch in padded_batches(traces, self.num_tokens, self._reader.tokens_per_batch):
            yield from smaller.run(batch, self._walk, self.num_tokens)

    def _walk(self, batch: Sequence[Trace]) -> list[NDArray[np.float32]]:
        texts, counts = [], []
        for trace in batch:
            ids, offsets = self.tokens(trace)
            units = unit_ids(self.config.unit, trace.thinking, offsets)
            _, starts, lengths = np.unique(units, return_index=True, return_counts=True)
            texts.append([part.tolist() for part in np.split(ids, starts)[1:]])
            counts.append(lengths)
        contexts = [self._reader.context_ids(self._condition, trace) for trace in batch]
        means = selective_logprobs(self._model, contexts, texts, self.config.max_surprise)
        return [np.repeat(values, lengths) for values, lengths in zip(means, counts, strict=True)]


def selective_logprobs(
    model: torch.nn.Module, contexts: Sequence[_Tokens], texts: Sequence[Sequence[_Tokens]], max_surprise: float
) -> list[NDArray[np.float32]]:
    """Mean log-probability of every unit given its context and the kept units before it, in nats.

    Contexts hold at least one token id and are always kept; no unit is empty. A unit is kept if its mean is at least
    `-max_surprise`. Returns float32 `[num_units]` per text.
    """
    import torch

    from cotpress.modeling.loading import split_head

    with torch.inference_mode():
        state = _State(contexts, split_head(model))
        means = [np.zeros(len(text), dtype=np.float32) for text in texts]
        for step in range(max(map(len, texts), default=0)):
            units = [text[step] if step < len(text) else () for text in texts]
            kept = []
            for text_means, logprobs in zip(means, state.read(units), strict=True):
                if len(logprobs):
                    text_means[step] = logprobs.mean()
                kept.append(len(logprobs) > 0 and text_means[step] >= -max_surprise)
            state.settle(units, kept)
        return means


class _State:
    """State of each text: cache, mask over the cache, number of kept tokens, last kept and last read hidden states."""

    def __init__(self, contexts: Sequence[_Tokens], split: SplitModel) -> None:
        from transformers import DynamicCache

        self._split, self._cache = split, DynamicCache()
        self._device = next(split.decoder.parameters()).device
        ids_BL, self._mask_BL = self._padded(contexts, "left")
        self._kept_B = self._mask_BL.sum(1)
        self._last_BD = self._forward(ids_BL, (self._mask_BL.cumsum(1) - 1).clamp(min=0))[:, -1]

    def read(self, units: Sequence[_Tokens]) -> list[NDArray[np.float32]]:
        """Read one unit per text, perhaps an empty one; returns the log-probabilities of its tokens."""
        import torch

        from cotpress.modeling.head import target_logprobs

        ids_BW, mask_BW = self._padded(units, "right")
        self._mask_BL = torch.cat([self._mask_BL, mask_BW], dim=1)
        positions_BW = self._kept_B[:, None] + torch.arange(ids_BW.shape[1], device=self._device)
        self._read_BWD = self._forward(ids_BW, positions_BW)
        # The state before a unit predicts its first token, the unit's own states predict the others.
        before_BWD = torch.cat([self._last_BD[:, None], self._read_BWD[:, :-1]], dim=1)
        inside_BW = mask_BW.bool()
        logprobs_N = target_logprobs(self._split.head, before_BWD[inside_BW], ids_BW[inside_BW]).cpu().numpy()
        return np.split(logprobs_N, np.cumsum([len(unit) for unit in units])[:-1])

    def _padded(self, rows: Sequence[_Tokens], side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask of rows of different length, int64 `[B, W]`."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        ids = [torch.tensor(row, dtype=torch.long, device=self._device) for row in rows]
        masks = [torch.ones_like(row) for row in ids]
        padded = partial(pad_sequence, batch_first=True, padding_side=side)
        return padded(ids), padded(masks)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        from cotpress.modeling.loading import cache_argument

        cache = {**cache_argument(self._cache), "use_cache": True}
        output = self._split.decoder(input_ids=ids, attention_mask=self._mask_BL, position_ids=positions, **cache)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def settle(self, units: Sequence[_Tokens], kept: Sequence[bool]) -> None:
        """Keep or forget the unit that was read last, text by text."""
        width = self._read_BWD.shape[1]
        for row, (unit, stays) in enumerate(zip(units, kept, strict=True)):
            if stays:
                self._last_BD[row] = self._read_BWD[row, len(unit) - 1]
                self._kept_B[row] += len(unit)
            else:
                self._mask_BL[row, -width:] = 0
        self._compact()

    def _compact(self) -> None:
        """Drop masked columns once they dominate the cache; keys carry their rotation with them, so they can move."""
        longest, cached = int(self._kept_B.max()), self._mask_BL.shape[1]
        if cached < COMPACT_ABOVE * longest:
            return
        order_BL = self._mask_BL.argsort(dim=1, stable=True)[:, cached - longest :]  # masked columns come first
        self._mask_BL = self._mask_BL.gather(1, order_BL)
        for layer in self._cache.layers:
            heads, size = layer.keys.shape[1], layer.keys.shape[3]
            chosen = order_BL[:, None, :, None].expand(-1, heads, -1, size)
            layer.keys, layer.values = layer.keys.gather(2, chosen), layer.values.gather(2, chosen)
