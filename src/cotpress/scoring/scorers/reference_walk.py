"""Reference walk: keep what the reference model would have written itself after the tokens kept so far.

Computes  s_u = mean over i in u of  log p_RM(x_i | c, k_<u, x_<i within u)      for unit u (a word), for all its tokens
          k_<u = the units v before u with s_v >= -max_surprise
Source    ours. The reference model was trained on valuable thinking alone; in reference_likelihood it reads every
          digression too, and after "Wait, let me double-check:" finds likely what it would not write by itself.
          Here it reads on only from the units that it finds likely: the others are dropped, and a repeated equation
          is as unlikely as any other digression once it has been kept before.

The kept units are not yet the compressed text: the scores are ranked like any other scorer's, so every ratio is met.
There is no released code to deviate from.

Texts advance together, one unit per forward pass. A forgotten unit is masked in the key-value cache until the cache is
next compacted, and positions count the kept tokens, so every text is read as if its forgotten units did not exist.

Shape suffixes: B texts, L cached positions, W tokens of the longest unit, D hidden size, N scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.segments import unit_ids
from cotpress.records import Trace, Unit
from cotpress.scoring.config import ReadingConfig
from cotpress.scoring.reader import ModelScorer, Reader
from cotpress.settings import Positive

if TYPE_CHECKING:
    import torch

    from cotpress.scoring.models import Models


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

    def __init__(self, config: ReferenceWalkConfig, reader: Reader, model: torch.nn.Module) -> None:
        super().__init__(config, reader, model)
        self._unit, self._max_surprise = config.unit, config.max_surprise

    @classmethod
    def tokens_per_batch(cls, models: Models) -> int:
        """See `ModelScorer`: it keeps keys and values of all its texts, as generation does, and takes small steps."""
        return models.trainer.generation_tokens

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        from cotpress.devices.memory import smaller_batches

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
        _, lengths = np.unique(unit_ids(self._unit, trace.thinking, self.tokens(trace)[1]), return_counts=True)
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


COMPACT_ABOVE = 1.5
"""Drop masked columns when the cache is this many times as long as any text's kept tokens; costs about one step."""

_Tokens = Sequence[int]
"""Token ids of a unit, which are kept or forgotten together."""


def selective_logprobs(
    model: torch.nn.Module,
    contexts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[_Tokens]],
    max_surprise: float,
) -> list[NDArray[np.float32]]:
    """Mean log-probability of every unit given the context and the kept units before it, in nats.

    Args:
        model: A causal language model in eval mode, with or without PEFT.
        contexts: Token ids before each text, at least one; always kept.
        texts: Units of each text, none of them empty.
        max_surprise: A unit is kept if its mean log-probability is at least `-max_surprise`.

    Returns:
        float32 `[num_units]` per text.
    """
    import torch

    from cotpress.modeling.head import target_logprobs
    from cotpress.modeling.loading import split_head

    with torch.inference_mode():
        split = split_head(model)
        state = _State.after(contexts, split.decoder)
        means = [np.zeros(len(text), dtype=np.float32) for text in texts]
        for step in range(max(map(len, texts), default=0)):
            units = [text[step] if step < len(text) else () for text in texts]
            hidden_BWD = state.read(units, split.decoder)
            rows = [row for row, unit in enumerate(units) if unit]
            # The state before a unit predicts its first token, the unit's own states predict the others.
            before = torch.cat(
                [torch.cat([state.last_BD[r : r + 1], hidden_BWD[r, : len(units[r]) - 1]]) for r in rows]
            )
            targets = torch.tensor([token for r in rows for token in units[r]], device=before.device)
            values = target_logprobs(split.head, before, targets).cpu().numpy()
            for row, unit_values in zip(
                rows, np.split(values, np.cumsum([len(units[r]) for r in rows])[:-1]), strict=True
            ):
                means[row][step] = unit_values.mean()
            state.settle(
                units, hidden_BWD, [bool(unit) and means[r][step] >= -max_surprise for r, unit in enumerate(units)]
            )
        return means


class _State:
    """State of each text: cache, mask over the cache, number of kept tokens, last kept hidden state."""

    def __init__(self, mask_BL: torch.Tensor, last_BD: torch.Tensor, cache: Any) -> None:
        self._mask_BL, self.last_BD, self._cache = mask_BL, last_BD, cache
        self._kept_B = mask_BL.sum(1)

    @classmethod
    def after(cls, contexts: Sequence[Sequence[int]], decoder: torch.nn.Module) -> _State:
        import torch
        from transformers import DynamicCache

        from cotpress.modeling.loading import cache_argument

        device = next(decoder.parameters()).device
        longest = max(map(len, contexts), default=0)
        ids_BL = torch.zeros((len(contexts), longest), dtype=torch.long, device=device)
        mask_BL = torch.zeros_like(ids_BL)
        for row, context in enumerate(contexts):
            ids_BL[row, longest - len(context) :] = torch.tensor(context)
            mask_BL[row, longest - len(context) :] = 1
        cache = DynamicCache()
        hidden_BLD = decoder(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=(mask_BL.cumsum(1) - 1).clamp(min=0),
            **cache_argument(cache),
            use_cache=True,
        ).last_hidden_state
        return cls(mask_BL, hidden_BLD[:, -1], cache)

    def read(self, units: Sequence[_Tokens], decoder: torch.nn.Module) -> torch.Tensor:
        """Hidden states of one unit per text, `[B, W, D]`; those past a unit's end are undefined."""
        import torch

        from cotpress.modeling.loading import cache_argument

        width = max(map(len, units))
        ids_BW = torch.zeros((len(units), width), dtype=torch.long, device=self._mask_BL.device)
        mask_BW = torch.zeros_like(ids_BW)
        for row, unit in enumerate(units):
            ids_BW[row, : len(unit)] = torch.tensor(unit, dtype=torch.long)
            mask_BW[row, : len(unit)] = 1
        self._mask_BL = torch.cat([self._mask_BL, mask_BW], dim=1)
        hidden_BWD: torch.Tensor = decoder(
            input_ids=ids_BW,
            attention_mask=self._mask_BL,
            position_ids=self._kept_B[:, None] + torch.arange(width, device=ids_BW.device),
            **cache_argument(self._cache),
            use_cache=True,
        ).last_hidden_state
        return hidden_BWD

    def settle(self, units: Sequence[_Tokens], hidden_BWD: torch.Tensor, kept: Sequence[bool]) -> None:
        """Keep or forget the unit that was read last, text by text."""
        width = hidden_BWD.shape[1]
        for row, (unit, stays) in enumerate(zip(units, kept, strict=True)):
            if stays:
                self.last_BD[row] = hidden_BWD[row, len(unit) - 1]
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


def _split(ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if len(lengths) else []
