"""Summed cross-entropy of a linear head, without the logits of all positions at once.

Autograd would keep the logits of every chunk until the backward pass. Here each chunk's gradient is taken while its
logits are at hand, as in Liger and cut-cross-entropy (arXiv 2411.09009), whose kernels need a GPU.
`torch.nn.functional.linear_cross_entropy` does the same; on a CPU its chunks (torch 2.13) took several times longer
than plain cross-entropy.
"""

from typing import Any

import torch
from torch.nn.functional import linear

ROWS_PER_CHUNK = 256
"""Positions whose logits are held at once; a row of 150,000 logits is 600 kB in float32."""


def head_loss(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Sum of -log softmax(states @ weight.T + bias)[target], in nats; scalar float32.

    Args:
        states: Hidden states `[N, D]`.
        weight: `[V, D]`.
        bias: `[V]` or None.
        targets: int64 `[N]`, each in [0, V).
    """
    loss: torch.Tensor = _HeadLoss.apply(states, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad
        grads = [
            torch.zeros_like(x) if x is not None and need else None
            for x, need in zip((states, weight, bias), wanted, strict=False)
        ]
        total = states.new_zeros((), dtype=torch.float32)
        for start in range(0, len(states), ROWS_PER_CHUNK):
            part = slice(start, start + ROWS_PER_CHUNK)
            logprobs = linear(states[part], weight, bias).float().log_softmax(-1)
            chosen = targets[part, None]
            total -= logprobs.gather(1, chosen).sum()
            if any(wanted):
                slope = logprobs.exp_().scatter_add_(1, chosen, logprobs.new_full(chosen.shape, -1.0)).to(states.dtype)
                _accumulate(grads, part, slope, states, weight)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if g is None else g * outer[0].to(g.dtype) for g in ctx.saved_tensors]
        return (*scaled, None)


def _accumulate(
    grads: list[torch.Tensor | None], part: slice, slope: torch.Tensor, states: torch.Tensor, weight: torch.Tensor
) -> None:
    """Add one chunk's share: `slope` is d loss / d logits `[n, V]`."""
    of_states, of_weight, of_bias = grads
    if of_states is not None:
        of_states[part] = slope @ weight
    if of_weight is not None:
        of_weight.addmm_(slope.t(), states[part])
    if of_bias is not None:
        of_bias += slope.sum(0)
