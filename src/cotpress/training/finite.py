"""Losses, gradients and weights that are no numbers end a training before they reach a checkpoint or an artifact."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch.distributed.tensor import DTensor

from cotpress.errors import TrainingError
from cotpress.training.batching import MicroBatch

SHOWN_ROWS = 8
"""Rows that a message names."""


def require_finite(step: int, losses: Sequence[float], norm: float, batches: Sequence[MicroBatch], stage: str) -> None:
    """Refuse to apply gradients that are no numbers.

    Args:
        step: Number of the optimizer step, from 1.
        losses: Of every micro-batch.
        norm: Of the gradient.
        batches: The micro-batches.
        stage: Name of the stage.

    Raises:
        TrainingError: Names the step, and the rows of the micro-batches whose loss is not finite.
    """
    if math.isfinite(norm) and all(map(math.isfinite, losses)):
        return
    bad = [b for loss, b in zip(losses, batches, strict=True) if not math.isfinite(loss)]
    what = f"is {sum(losses)}" if bad else f"is {sum(losses):.4g} and its gradient {norm}"
    rows = [row for batch in bad or batches for row in batch.rows]
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    raise TrainingError(
        f"{stage}: the loss of step {step} {what}, not a finite number (rows {rows[:SHOWN_ROWS]}{more}). The weights "
        "were not changed by it. Fix: a lower learning rate, model.dtype=float32, or look for odd texts in these rows"
    )


def require_finite_weights(weights: Iterable[torch.Tensor], stage: str, step: int) -> None:
    """Refuse to keep weights that are no numbers, as a huge learning rate makes them of gradients that are. All devices
    call it.

    Raises:
        TrainingError: Names the step.
    """
    present = [w.detach() for w in weights if w.numel() > 0]  # ZeRO leaves empty ones in the places of cut weights
    if not present:
        return
    largest = torch.nn.utils.get_total_norm(present, norm_type=math.inf)
    if isinstance(largest, DTensor):
        largest = largest.full_tensor()
    if not math.isfinite(float(largest)):
        raise TrainingError(
            f"{stage}: the weights are not finite after step {step}. The last checkpoint is of before. "
            "Fix: a lower learning rate, or model.dtype=float32"
        )
