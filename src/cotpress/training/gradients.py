"""The gradients of one optimizer step; micro-batches that do not fit the memory are cut smaller.

Losses, gradients and weights that are no numbers end a training before they reach a checkpoint or an artifact.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch.distributed.tensor import DTensor

from cotpress.devices.memory import MEMORY_FIX, SmallerBatches, is_out_of_memory, release
from cotpress.errors import MemoryLimitError, TrainingError
from cotpress.modeling.packing import Packed
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


class StepGradients:
    """Accumulates gradients; a step whose micro-batches do not fit the memory is begun anew with smaller ones.

    The loss is a sum over tokens divided by those of the whole step, so however it is cut, loss and gradient are the
    same up to rounding. Dropout draws another mask for other micro-batches: `backward` seeds it by their number.

    Args:
        stage: Name of the stage, for the log.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._smaller = SmallerBatches(f"{stage}: train")

    def accumulate(
        self,
        batches: Sequence[MicroBatch],
        backward: Callable[[MicroBatch], torch.Tensor],
        reset: Callable[[], None],
        *,
        alone: bool,
    ) -> tuple[list[torch.Tensor], list[MicroBatch]]:
        """The detached loss of every micro-batch as it was run, and these.

        Args:
            batches: Of one optimizer step.
            backward: Adds the gradients of a micro-batch and returns its loss.
            reset: Takes back the gradients of the step.
            alone: False if other processes take part in every micro-batch; they would wait for one that cuts its own.

        Raises:
            MemoryLimitError: A micro-batch of a single sequence does not fit, or any if not `alone`.
        """
        while True:
            cut, losses = [part for batch in batches for part in at_most(batch, self._smaller.most)], []
            try:
                for micro in cut:
                    losses.append(backward(micro))
                return losses, cut
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                lengths = cut[len(losses)].packed.lengths
                if not alone:
                    raise MemoryLimitError(
                        f"{self._stage}: out of memory with {sum(lengths)} tokens at once on one of several devices, "
                        f"which have to take the same batches. {MEMORY_FIX}"
                    ) from error
                self._smaller.lower(sum(lengths), error, indivisible=len(lengths) == 1)
            losses.clear()
            release()
            reset()


def at_most(batch: MicroBatch, num_tokens: int | None) -> Iterator[MicroBatch]:
    """The micro-batch, cut between sequences into parts of at most `num_tokens` tokens; None leaves it whole."""
    lengths = batch.packed.lengths
    if num_tokens is None or len(lengths) == 1 or sum(lengths) <= num_tokens:
        yield batch
        return
    middle = len(lengths) // 2
    for first, last in ((0, middle), (middle, len(lengths))):
        yield from at_most(_sequences(batch, first, last), num_tokens)


def _sequences(batch: MicroBatch, first: int, last: int) -> MicroBatch:
    """Some consecutive sequences of a micro-batch."""
    packed, lengths = batch.packed, batch.packed.lengths
    start, end = sum(lengths[:first]), sum(lengths[:last])
    inside = (batch.predicting >= start) & (batch.predicting < end)
    return MicroBatch(
        packed=Packed(
            ids=packed.ids[:, start:end], positions=packed.positions[:, start:end], lengths=lengths[first:last]
        ),
        predicting=batch.predicting[inside] - start,
        targets=batch.targets[inside],
        number=batch.number,
        rows=batch.rows[first:last],
    )
