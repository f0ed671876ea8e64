"""What a causal language model thinks of given texts, token by token: one number per target token.

    token_logprobs     log p(target_i | context, target_<i)
    token_entropies    H(p(. | context, target_<i))

Only what is asked for is computed: the body of the model runs over length-sorted batches, its head only on the
scored positions and only for a bounded number of them at a time, so the logits of a whole text never exist
(5,000 tokens x 152,064 words would be 3 GB).

Shape suffixes: B sequences, L positions, D hidden size, N scored positions, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.loading import SplitModel, split_head

BATCHES_AHEAD = 8
"""Batches' worth of input that is read ahead, to be sorted by length."""

_LOGITS_AT_ONCE = 2**25
"""Largest number of logits held at a time (128 MB in float32)."""

_Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From float32 logits `[N, V]` and the tokens that came, int64 `[N]`, to one float32 number per row, `[N]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInput:
    """A text to be scored after a context that is only read.

    Attributes:
        context_ids: What comes before; at least one token, since the first target token is predicted from it.
        target_ids: Tokens whose log-probabilities are wanted.
    """

    context_ids: Sequence[int]
    target_ids: Sequence[int] | NDArray[np.int32]

    @property
    def num_tokens(self) -> int:
        """Length of the whole sequence."""
        return len(self.context_ids) + len(self.target_ids)


def token_logprobs(
    model: torch.nn.Module, inputs: Iterable[ScoreInput], tokens_per_batch: int
) -> Iterator[NDArray[np.float32]]:
    """Yields log p(target_i | context, target_<i) in nats, float32 `[num_target]`, in the order of the inputs.

    Sequences are padded on the right without an attention mask: attention is causal, so no scored position sees the
    padding, and the result is that of a forward pass over the sequence alone. Log-softmax is in float32.

    Args:
        model: A causal language model in eval mode, with or without PEFT.
        inputs: Read lazily, `BATCHES_AHEAD` batches at a time.
        tokens_per_batch: Tokens per forward pass, padding included; a longer sequence is a batch by itself.

    Raises:
        ModelError: The architecture cannot be split into body and head.
        ValueError: An input has no context token.
    """
    return _measured(model, inputs, tokens_per_batch, _logprobs)


def token_entropies(
    model: torch.nn.Module, inputs: Iterable[ScoreInput], tokens_per_batch: int
) -> Iterator[NDArray[np.float32]]:
    """Yields the entropy of p(. | context, target_<i) in nats, float32 `[num_target]` in [0, log V].

    How uncertain the model is before it reads target token i; the token itself has no part in it. Arguments, order
    and errors as `token_logprobs`.
    """
    return _measured(model, inputs, tokens_per_batch, _entropies)


def _logprobs(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    return logits_NV.gather(1, targets_N[:, None]).squeeze(1) - logits_NV.logsumexp(dim=1)


def _entropies(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    # entr(p) = -p log p is 0 where p underflows, where p * log p would be 0 * -inf.
    entropies_N: torch.Tensor = torch.special.entr(logits_NV.softmax(dim=1)).sum(dim=1)
    return entropies_N


def _measured(
    model: torch.nn.Module, inputs: Iterable[ScoreInput], tokens_per_batch: int, measure: _Measure
) -> Iterator[NDArray[np.float32]]:
    split = split_head(model)
    for window in _windows(inputs, BATCHES_AHEAD * tokens_per_batch):
        results: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(window)
        for batch in _batches(window, tokens_per_batch):
            scored = _score_batch(split, [window[i] for i in batch], measure)
            for i, values in zip(batch, scored, strict=True):
                results[i] = values
        yield from results


def _windows(inputs: Iterable[ScoreInput], num_tokens: int) -> Iterator[list[ScoreInput]]:
    window: list[ScoreInput] = []
    size = 0
    for item in inputs:
        if len(item.context_ids) == 0:
            raise ValueError("a text can only be scored after at least one context token, such as bos")
        window.append(item)
        size += item.num_tokens
        if size >= num_tokens:
            yield window
            window, size = [], 0
    if window:
        yield window


def _batches(window: Sequence[ScoreInput], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of sequences of similar length, longest first; nothing to score means no forward pass."""
    order = [i for i in range(len(window)) if len(window[i].target_ids)]
    order.sort(key=lambda i: -window[i].num_tokens)
    while order:
        size = max(tokens_per_batch // window[order[0]].num_tokens, 1)
        yield order[:size]
        order = order[size:]


@torch.inference_mode()
def _score_batch(split: SplitModel, batch: Sequence[ScoreInput], measure: _Measure) -> list[NDArray[np.float32]]:
    device = next(split.decoder.parameters()).device
    longest = max(item.num_tokens for item in batch)
    ids_BL = torch.zeros((len(batch), longest), dtype=torch.long)
    rows, columns = [], []
    for row, item in enumerate(batch):
        whole = np.concatenate([np.asarray(item.context_ids), np.asarray(item.target_ids)]).astype(np.int64)
        ids_BL[row, : len(whole)] = torch.from_numpy(whole)
        # Position t predicts token t + 1.
        columns.append(torch.arange(len(item.context_ids) - 1, len(whole) - 1))
        rows.append(torch.full((len(item.target_ids),), row))
    row_N, column_N = torch.cat(rows), torch.cat(columns)
    targets_N = ids_BL[row_N, column_N + 1].to(device)
    hidden_BLD = split.decoder(input_ids=ids_BL.to(device), use_cache=False).last_hidden_state
    values_N = _in_chunks(split.head, hidden_BLD[row_N.to(device), column_N.to(device)], targets_N, measure)
    lengths = [len(item.target_ids) for item in batch]
    return np.split(values_N.cpu().numpy(), np.cumsum(lengths)[:-1])


def target_logprobs(head: torch.nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Log-probability of one token per hidden state, float32 `[N]`, with a bounded number of logits at a time.

    Args:
        head: Hidden states to logits.
        hidden_ND: States that predict the targets.
        targets_N: int64 token ids.
    """
    return _in_chunks(head, hidden_ND, targets_N, _logprobs)


def _in_chunks(
    head: torch.nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor, measure: _Measure
) -> torch.Tensor:
    vocabulary = int(head.weight.shape[0])  # type: ignore[index]
    rows = max(_LOGITS_AT_ONCE // vocabulary, 1)
    chunks = [slice(first, first + rows) for first in range(0, max(len(targets_N), 1), rows)]
    return torch.cat([measure(head(hidden_ND[chunk]).float(), targets_N[chunk]) for chunk in chunks])
