"""Summed cross-entropy of a linear head, without the logits of all positions at once.

Autograd would keep the logits of every chunk until the backward pass. Here the gradient of a chunk is computed together
with its loss, as in Liger and cut-cross-entropy (arXiv 2411.09009), whose kernels need a GPU.
`torch.nn.functional.linear_cross_entropy` does the same; on a CPU (torch 2.13) it took several times longer than plain
cross-entropy. All give the same loss and gradients up to rounding; `trainer.head_loss` selects one.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear, linear_cross_entropy

from cotpress.devices.config import HeadLoss
from cotpress.errors import ConfigError
from cotpress.training import config

log = logging.getLogger(__name__)

ROWS_PER_CHUNK = 256
"""Positions whose logits exist at once; a row of 150,000 logits is 600 kB in float32."""

MaybeTensor = torch.Tensor | None
SummedLoss = Callable[[torch.Tensor, torch.Tensor, MaybeTensor, torch.Tensor, MaybeTensor], torch.Tensor]
"""Sum of -log softmax(states @ weight.T + bias)[target], in nats, each times its weight if there are some; a scalar,
differentiable in states, weight and bias.

The arguments are the hidden states `[N, D]`, the weight `[V, D]`, the bias `[V]` or None, the targets, int64 `[N]`,
each in [0, V), and the weights of the losses, float32 `[N]`, or None if all are 1.
"""

WEIGHING = (HeadLoss.plain, HeadLoss.chunked)
"""Implementations that weigh losses; the kernels of others return sums alone, or gradients of sums."""


def pick_head_loss(choice: HeadLoss, device: torch.device, *, weighted: bool = False) -> SummedLoss:
    """The implementation of `trainer.head_loss` for a device; Liger is an error without a GPU or its package.

    The chunked one takes the place of one that cannot weigh losses, if they are `weighted`.
    """
    if weighted and choice not in WEIGHING:
        log.info("trainer.head_loss=%s: chunked, as it weighs the losses of tokens", choice.value)
        choice = HeadLoss.chunked
    if choice is HeadLoss.auto:
        choice = HeadLoss.liger if device.type == "cuda" and config.liger_is_installed() else HeadLoss.chunked
        log.info("trainer.head_loss=auto: %s", choice.value)
    match choice:
        case HeadLoss.plain:
            return plain_loss
        case HeadLoss.linear_cross_entropy:
            options = torch.nn.LinearCrossEntropyOptions()  # torch selects chunks and dtype of the sums
            return _unweighted(
                lambda states, weight, bias, targets: linear_cross_entropy(
                    states, weight, targets, linear_bias=bias, reduction="sum", options=options
                )
            )
        case HeadLoss.liger:
            return _liger_loss(device)
        case _:
            return chunked_loss


def _unweighted(
    loss: Callable[[torch.Tensor, torch.Tensor, MaybeTensor, torch.Tensor], torch.Tensor],
) -> SummedLoss:
    """A `SummedLoss` of a kernel that knows no weights."""

    def summed(
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: MaybeTensor,
        targets: torch.Tensor,
        factors: MaybeTensor = None,
    ) -> torch.Tensor:
        assert factors is None, "this implementation weighs no losses"
        return loss(states, weight, bias, targets)

    return summed


def _liger_loss(device: torch.device) -> SummedLoss:
    if device.type != "cuda":
        raise ConfigError(
            f"trainer.head_loss: got 'liger', whose kernel needs a GPU, but the device is '{device.type}'. "
            "Fix: trainer.head_loss=auto, or trainer=gpu"
        )
    config.check_head_loss(HeadLoss.liger)
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    kernel = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    return _unweighted(lambda states, weight, bias, targets: kernel(weight, states, targets, bias))


def plain_loss(
    states: torch.Tensor, weight: torch.Tensor, bias: MaybeTensor, targets: torch.Tensor, factors: MaybeTensor = None
) -> torch.Tensor:
    """A `SummedLoss` for which all `N * V` logits exist at once, twice in float32."""
    logits = linear(states, weight, bias).float()
    if factors is None:
        return cross_entropy(logits, targets, reduction="sum")
    return (cross_entropy(logits, targets, reduction="none") * factors).sum()


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: MaybeTensor,
        targets: torch.Tensor,
        factors: MaybeTensor,
    ) -> torch.Tensor:
        needed = ctx.needs_input_grad
        of_states, of_weight, of_bias = (
            torch.zeros_like(x) if x is not None and need else None
            for x, need in zip((states, weight, bias), needed, strict=False)
        )
        total = states.new_zeros((), dtype=torch.float32)
        for start in range(0, len(states), ROWS_PER_CHUNK):
            part = slice(start, start + ROWS_PER_CHUNK)
            logprobs = linear(states[part], weight, bias).float().log_softmax(-1)
            chosen = targets[part, None]
            factor = None if factors is None else factors[part, None]
            losses = logprobs.gather(1, chosen)
            total -= losses.sum() if factor is None else (losses * factor).sum()
            if not any(needed):
                continue
            # d loss / d logits [n, V]
            slope = logprobs.exp_().scatter_add_(1, chosen, logprobs.new_full(chosen.shape, -1.0))
            slope = (slope if factor is None else slope.mul_(factor)).to(states.dtype)
            if of_states is not None:
                of_states[part] = slope @ weight
            if of_weight is not None:
                of_weight.addmm_(slope.t(), states[part])
            if of_bias is not None:
                of_bias += slope.sum(0)
        ctx.save_for_backward(of_states, of_weight, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if g is None else g * outer[0].to(g.dtype) for g in ctx.saved_tensors]
        return (*scaled, None, None)


def chunked_loss(
    states: torch.Tensor, weight: torch.Tensor, bias: MaybeTensor, targets: torch.Tensor, factors: MaybeTensor = None
) -> torch.Tensor:
    """A `SummedLoss` in float32, with the logits of `ROWS_PER_CHUNK` positions at a time."""
    total: torch.Tensor = _ChunkedLoss.apply(states, weight, bias, targets, factors)  # type: ignore[no-untyped-call]
    return total
