"""Log-probability of a text without each of several spans, from one key-value cache of the text before them.

Shape suffixes: L positions of the full text, B spans in a batch, R positions read again, N counted positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.devices.memory import smaller_batches
from cotpress.modeling.head import target_logprobs
from cotpress.modeling.loading import SplitModel, cache_argument, split_head

if TYPE_CHECKING:
    from transformers import DynamicCache


def deletion_logprobs(
    model: torch.nn.Module,
    ids: Sequence[int],
    spans: Sequence[range],
    counted: NDArray[np.bool_],
    tokens_per_batch: int,
) -> NDArray[np.float64]:
    """log p of the counted tokens of a text with one of the spans left out, for each of the spans, in nats.

    The text before a span comes from the cache, all that follows it is read again. Neighbouring spans are read as a
    batch, whose texts, cached part included, hold at most `tokens_per_batch` tokens, or as a single text; that changes
    speed and memory only. The model is in eval mode, with or without PEFT.

    Args:
        model: A causal language model whose layers keep a cache.
        ids: Token ids of the full text.
        spans: Positions left out together, in ascending order, each with a token before and one after it. An empty
            range leaves out nothing.
        counted: Tokens whose log-probability is summed, bool `[L]`; those of a span do not count where it is left out.
            Never the first one.
        tokens_per_batch: Bound of a batch.

    Returns:
        float64 `[len(spans)]`.
    """
    _check(ids, spans)
    with torch.inference_mode():
        split, ids_L, counted_L = _placed(model, ids, counted)
        last = spans[-1].start
        cache = _cache()
        prefix_L = torch.zeros(max(last - 1, 0), dtype=torch.float64, device=ids_L.device)
        if last > 1:
            prefix_L = _counted_logprobs(split, cache, ids_L[None, :last], counted_L[None, :last])[0]
        before_L = torch.nn.functional.pad(prefix_L, (2, 0)).cumsum(0)  # sums over the tokens before a position

        def left_out(batch: Sequence[range]) -> list[float]:
            # The token before the first span is read again: it predicts the first token that differs.
            start = batch[0].start - 1
            extents = torch.tensor([(span.start, len(span)) for span in batch], device=ids_L.device)
            begins, sizes = extents[:, :1], extents[:, 1:]
            place_R = torch.arange(start, len(ids) - int(sizes.min()), device=ids_L.device)
            place_BR = place_R + (place_R >= begins) * sizes
            inside_BR = place_BR < len(ids)  # shorter texts are padded
            place_BR = place_BR.clamp(max=len(ids) - 1)
            shared = _repeated(cache, start, len(batch))
            rest_BR = _counted_logprobs(split, shared, ids_L[place_BR], counted_L[place_BR] & inside_BR)
            return cast("list[float]", (before_L[batch[0].start] + rest_BR.sum(dim=1)).tolist())

        return _in_batches(model, spans, left_out, len(ids), tokens_per_batch)


def hidden_logprobs(
    model: torch.nn.Module,
    ids: Sequence[int],
    spans: Sequence[range],
    counted: NDArray[np.bool_],
    tokens_per_batch: int,
    *,
    reread: int,
) -> NDArray[np.float64]:
    """log p of the counted tokens, in nats, where those from position `reread` on do not attend to one of the spans.

    The text before `reread`, which holds all spans, is read once and whole: what follows a span there has read it, and
    positions stay. Arguments and result as `deletion_logprobs`; only tokens after the one at `reread` are counted.
    """
    _check(ids, spans)
    if spans[-1].stop > reread or counted[: reread + 1].any():
        raise ValueError(f"spans end at {spans[-1].stop} and tokens count that are not after position {reread}")
    with torch.inference_mode():
        split, ids_L, counted_L = _placed(model, ids, counted)
        cache = _cache()
        split.decoder(input_ids=ids_L[None, :reread], **cache_argument(cache), use_cache=True)

        def hidden(batch: Sequence[range]) -> list[float]:
            mask_BL = torch.ones(len(batch), len(ids) - 1, dtype=torch.long, device=ids_L.device)
            for row, span in enumerate(batch):
                mask_BL[row, span.start : span.stop] = 0
            ids_BR, counted_BR = (x[reread:].expand(len(batch), -1) for x in (ids_L, counted_L))
            positions = torch.arange(reread, len(ids) - 1, device=ids_L.device).expand(len(batch), -1)
            shared = _repeated(cache, reread, len(batch))
            logprobs_BR = _counted_logprobs(
                split, shared, ids_BR, counted_BR, attention_mask=mask_BL, position_ids=positions
            )
            return cast("list[float]", logprobs_BR.sum(dim=1).tolist())

        return _in_batches(model, spans, hidden, len(ids), tokens_per_batch)


def _check(ids: Sequence[int], spans: Sequence[range]) -> None:
    inside = all(0 < span.start <= span.stop < len(ids) for span in spans)
    if not spans or not inside or any(a.start > b.start for a, b in pairwise(spans)):
        raise ValueError(f"spans {list(spans)} need to ascend, with a token of the {len(ids)} before and after each")


def _placed(
    model: torch.nn.Module, ids: Sequence[int], counted: NDArray[np.bool_]
) -> tuple[SplitModel, torch.Tensor, torch.Tensor]:
    split = split_head(model)
    device = next(split.decoder.parameters()).device
    return split, torch.tensor(ids, device=device), torch.tensor(counted, device=device)


def _cache() -> DynamicCache:
    from transformers import DynamicCache

    return DynamicCache()  # without its config it keeps every position in every layer, also where attention slides


def _repeated(cache: DynamicCache, stop: int, num_rows: int) -> DynamicCache:
    """A new cache of the first `stop` positions of a cache of one text, for several texts."""
    repeated = _cache()
    for index, layer in enumerate(cache.layers if stop else ()):
        keys, values = (x[:, :, :stop].expand(num_rows, -1, -1, -1) for x in (layer.keys, layer.values))
        repeated.update(keys, values, index)
    return repeated


def _in_batches(
    model: torch.nn.Module,
    spans: Sequence[range],
    work: Callable[[Sequence[range]], list[float]],
    num_tokens: int,
    tokens_per_batch: int,
) -> NDArray[np.float64]:
    at_once = max(tokens_per_batch // num_tokens, 1)
    smaller = smaller_batches(model, "reading a text without each of its parts")
    values: list[float] = []
    for first in range(0, len(spans), at_once):
        values += smaller.run(spans[first : first + at_once], work, lambda _: num_tokens)
    return np.array(values)


def _counted_logprobs(
    split: SplitModel, cache: DynamicCache, ids_BL: torch.Tensor, counted_BL: torch.Tensor, **more: Any
) -> torch.Tensor:
    """Log-probability of each token but the first, 0 where it is not counted, float64 `[B, L - 1]`.

    The tokens are read after those in the cache, and all but the last are added to it.
    """
    output = split.decoder(input_ids=ids_BL[:, :-1], **cache_argument(cache), use_cache=True, **more)
    counted = counted_BL[:, 1:]
    values_N = target_logprobs(split.head, output.last_hidden_state[counted], ids_BL[:, 1:][counted])
    logprobs = torch.zeros(counted.shape, dtype=torch.float64, device=ids_BL.device)
    logprobs[counted] = values_N.double()
    return logprobs
