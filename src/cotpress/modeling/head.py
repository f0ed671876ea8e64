"""Log-probabilities, entropies and ranks from hidden states, without ever holding all logits of a text.

The logits of 5,000 tokens over 152,064 words take 3 GB in float32; here they are computed and overwritten in parts.

Shape suffixes: N positions, D hidden size, V vocabulary, B one block of it.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import linear

_LOGITS_AT_ONCE = {"cpu": 2**23, "cuda": 2**27}
"""Most logits in memory at a time, for whole rows of the vocabulary: 32 and 512 MB in float32."""

_CPU_BLOCK = (512, 4096)
"""Positions and words of one block on a CPU, whose 8 MB of logits fit the cache."""


def target_logprobs(head: torch.nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Log-probability of one token per hidden state in nats, float32 `[N]`; `targets_N` are int64 token ids."""
    # On a GPU whole rows are as fast. A subclass (quantised) or wrapper (LoRA) has no plain weight to split.
    if hidden_ND.device.type != "cpu" or type(head) is not torch.nn.Linear:
        rows = _rows_at_once(head, hidden_ND)
        return _by_rows(rows, hidden_ND, targets_N, lambda h, t: _logprobs_of(_logits(head, h), t))
    rows, columns = _CPU_BLOCK
    weights = torch.split(head.weight, columns)
    biases = [None] * len(weights) if head.bias is None else torch.split(head.bias, columns)
    blocks = list(zip(weights, biases, strict=True))
    return _by_rows(rows, hidden_ND, targets_N, lambda h, t: _logprobs_by_block(blocks, h, t))


def target_readings(head: torch.nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Log-probability, entropy and rank of one token per hidden state, float32 `[N, 3]`.

    The log-probability, in nats, is that of `target_logprobs`. The entropy is that of the whole prediction, in nats, in
    [0, log V]. The rank is the number of words with a higher logit: 0 for the model's first choice.
    """
    if hidden_ND.device.type != "cpu" or type(head) is not torch.nn.Linear:

        def readings(states_ND: torch.Tensor, chosen_N: torch.Tensor) -> torch.Tensor:
            logits_NV = _logits(head, states_ND)
            entropy_N, rank_N = _entropies_and_ranks(logits_NV, chosen_N)
            return torch.stack([_logprobs_of(logits_NV, chosen_N), entropy_N, rank_N], dim=1)

        return _by_rows(_rows_at_once(head, hidden_ND), hidden_ND, targets_N, readings)

    rows, columns = _CPU_BLOCK

    def pieces(states_ND: torch.Tensor, chosen_N: torch.Tensor) -> torch.Tensor:
        logits_NV = _logits(head, states_ND)
        sums = [block.logsumexp(dim=1) for block in torch.split(logits_NV, columns, dim=1)]
        value_N = logits_NV.gather(1, chosen_N[:, None]).squeeze(1)
        return torch.stack([value_N, *_entropies_and_ranks(logits_NV, chosen_N), *sums], dim=1)

    def readings_of_block(states_ND: torch.Tensor, chosen_N: torch.Tensor) -> torch.Tensor:
        # The same sums over the same rows as in `target_logprobs`: a vectorised sum has other last bits at its end.
        parts_NP = _by_rows(_rows_at_once(head, states_ND), states_ND, chosen_N, pieces)
        value_N, entropy_N, rank_N = parts_NP[:, :3].unbind(dim=1)
        normalisers_N = parts_NP[:, 3:].t().contiguous().logsumexp(dim=0)
        return torch.stack([value_N - normalisers_N, entropy_N, rank_N], dim=1)

    return _by_rows(rows, hidden_ND, targets_N, readings_of_block)


def _entropies_and_ranks(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rank_N = (logits_NV > logits_NV.gather(1, targets_N[:, None])).sum(dim=1).float()
    shares_NV = logits_NV.softmax(dim=1)
    # entr(p) = -p log p is 0 where p underflows, where p * log p would be 0 * -inf.
    return torch.special.entr(shares_NV, out=shares_NV).sum(dim=1), rank_N


def _logprobs_of(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Log-probability of the targets; overwrites the logits."""
    chosen_N = logits_NV.gather(1, targets_N[:, None]).squeeze(1)
    peaks_N = logits_NV.amax(dim=1)
    # In place: a second copy of the logits would cost more than the arithmetic.
    return chosen_N - peaks_N - logits_NV.sub_(peaks_N[:, None]).exp_().sum(dim=1).log_()


def _logprobs_by_block(
    blocks: Sequence[tuple[torch.Tensor, torch.Tensor | None]], hidden_ND: torch.Tensor, targets_N: torch.Tensor
) -> torch.Tensor:
    """As `_logprobs_of`, with the normaliser summed over blocks of the vocabulary."""
    chosen_N, sums, first = torch.zeros(targets_N.shape), [], 0
    for weight_BD, bias_B in blocks:
        logits_NB = linear(hidden_ND, weight_BD, bias_B).float()
        here_N = (targets_N >= first) & (targets_N < first + len(weight_BD))
        chosen_N[here_N] = logits_NB[here_N, targets_N[here_N] - first]
        sums.append(logits_NB.logsumexp(dim=1))
        first += len(weight_BD)
    normalisers_N: torch.Tensor = torch.stack(sums).logsumexp(dim=0)
    return chosen_N - normalisers_N


def _logits(head: torch.nn.Module, hidden_ND: torch.Tensor) -> torch.Tensor:
    """Logits in float32 `[N, V]`, which the caller may overwrite.

    CUDA multiplies half-precision matrices into float32; ROCm and CPUs cannot. Rounded to bfloat16, a logit of 20 is
    off by up to 0.06, which is large compared with differences of log-probabilities.
    """
    half = hidden_ND.dtype in (torch.bfloat16, torch.float16)
    if half and hidden_ND.is_cuda and torch.version.hip is None and type(head) is torch.nn.Linear:
        logits_NV = torch.mm(hidden_ND, head.weight.t(), out_dtype=torch.float32)
        return logits_NV if head.bias is None else logits_NV.add_(head.bias)
    rounded_NV: torch.Tensor = head(hidden_ND)
    return rounded_NV.float()


def _rows_at_once(head: torch.nn.Module, hidden_ND: torch.Tensor) -> int:
    """Positions whose logits over the whole vocabulary are in memory at a time."""
    vocabulary = int(head.weight.shape[0])  # type: ignore[index]
    return max(_LOGITS_AT_ONCE["cpu" if hidden_ND.device.type == "cpu" else "cuda"] // vocabulary, 1)


def _by_rows(
    rows: int,
    hidden_ND: torch.Tensor,
    targets_N: torch.Tensor,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Apply `measure` to `rows` positions at a time; float32 `[N]`."""
    chunks = [slice(first, first + rows) for first in range(0, max(len(targets_N), 1), rows)]
    return torch.cat([measure(hidden_ND[chunk], targets_N[chunk]) for chunk in chunks])
