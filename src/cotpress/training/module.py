"""The Lightning modules: masked next-token loss, weighted by tokens over a whole optimizer step.

They work on a model, batches and the recipe, without tokenizer, files or tracking. Micro-batches that do not fit the
memory are split. Losses, gradients and weights that are not finite end the training before they reach a checkpoint.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from cotpress.devices.launch import here
from cotpress.devices.memory import MEMORY_FIX, SmallerBatches, is_out_of_memory, release
from cotpress.devices.stopping import StopRequest, StopTraining
from cotpress.errors import MemoryLimitError, TrainingError
from cotpress.modeling.loading import split_head
from cotpress.modeling.packing import packed_inputs
from cotpress.training.batching import MicroBatch, Step, at_most
from cotpress.training.config import TuneConfig
from cotpress.training.head_loss import SummedLoss, plain_loss
from cotpress.training.sharing import OneDevice

SHOWN_ROWS = 8
"""Most rows that a message names."""


def rate_factor(tune: TuneConfig, num_steps: int, step: int) -> float:
    """Learning rate of a step (counted from 0) relative to the peak: linear warmup, then cosine decay to zero."""
    warmup = max(round(tune.warmup_fraction * num_steps), 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(num_steps - warmup, 1)))


class LossOfModel(torch.nn.Module):
    """A causal language model whose forward pass returns the loss of a micro-batch.

    Model and loss are one call, because sharded weights are whole only inside of it.
    """

    def __init__(self, model: torch.nn.Module, summed_loss: SummedLoss) -> None:
        super().__init__()
        self.model, self._summed_loss = model, summed_loss

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Summed negative log-likelihood of the targets, in nats, each times its weight; scalar float32.

        The head sees no other positions.
        """
        split = split_head(self.model)
        states = split.decoder(**packed_inputs(split.decoder, batch.packed)).last_hidden_state[0]
        head: Any = split.head
        loss = self._summed_loss if len(batch.targets) > 0 else plain_loss  # kernels may not take empty inputs
        return loss(states.index_select(0, batch.predicting), head.weight, head.bias, batch.targets, batch.weights)


class NextTokenModule(pl.LightningModule):
    """Trains the trainable parameters of a causal language model, one optimizer step per `Step`.

    The loss is the sum over all target tokens of the step divided by their number, or by the sum of their weights,
    however they are spread over micro-batches and devices: a mean of micro-batch means would weight the tokens of short
    batches more.
    The model is in train mode and was loaded by `sharing`; `num_steps` counts the steps of the whole run. A request to
    stop ends the training before the next micro-batch, with weights and moments as after the last step.

    Attributes:
        steps_done: Finished optimizer steps, those of an interrupted run included.
    """

    stage = "train"

    def __init__(
        self,
        model: torch.nn.Module,
        tune: TuneConfig,
        num_steps: int,
        summed_loss: SummedLoss,
        sharing: OneDevice | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._sharing = sharing or OneDevice()
        self.loss_sum = self._sharing.ready(LossOfModel(model, summed_loss))
        self._tune, self._num_steps = tune, num_steps
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._smaller = SmallerBatches(f"{self.stage}: train")
        self._stop = stop or StopRequest()
        self.steps_done = 0

    @property
    def model(self) -> torch.nn.Module:
        """The model in training."""
        return self.loss_sum.get_submodule("model")

    @contextmanager
    def answering(self) -> Iterator[torch.nn.Module]:
        """The model as it will be saved: in eval mode, its weights in their own number format."""
        with self._sharing.as_saved(self.model):
            self.model.eval()
            yield self.model
            self.model.train()

    def configure_model(self) -> None:
        """Do nothing: a sharded model comes sharded. Lightning requires this method of a sharded training."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the trainable parameters; each step sets its learning rate."""
        tune, betas = self._tune, (self._tune.beta1, self._tune.beta2)
        return torch.optim.AdamW(
            self._trained, lr=tune.learning_rate, betas=betas, weight_decay=tune.weight_decay, fused=True
        )

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """Move the micro-batches to the device."""
        return replace(batch, batches=[micro.to(device) for micro in batch.batches])

    def training_step(self, batch: Step, batch_idx: int) -> None:
        """Take one optimizer step; an error if loss or gradient are not finite, `StopTraining` if it has to stop."""
        optimizer, num_workers = self.optimizers(), here().num_workers
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        rate = self._tune.learning_rate * rate_factor(self._tune, self._num_steps, self.steps_done)
        for group in optimizer.param_groups:
            group["lr"] = rate

        def backward(micro: MicroBatch) -> torch.Tensor:
            self._require_no_stop()
            with self._sharing.micro_batch(self.trainer, last=micro is batch.batches[-1]):
                # The seed of dropout is the same on every device that may compute this batch, and in a resumed run.
                seeds = np.random.SeedSequence((self._tune.seed, self.steps_done, micro.number))
                torch.manual_seed(int(seeds.generate_state(1)[0]))
                loss: torch.Tensor = self.loss_sum(micro) / batch.weight
                self.manual_backward(loss * num_workers)  # the strategies average over devices
            return loss.detach()

        alone = num_workers == 1
        fixed = "" if alone else "on one of several devices, which have to run the same batches"
        if not fixed and any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in self.model.modules()):
            fixed = "with dropout, whose random masks depend on the batches"
        losses, micros = accumulate(batch.batches, backward, optimizer.zero_grad, self._smaller, fixed=fixed)
        norm = self._sharing.clip(self._trained, self._tune.max_grad_norm).to(losses[0].device)
        *by_micro, norm_value = torch.stack([*losses, norm.float()]).double().tolist()  # waits for the device, once
        self._require_finite(by_micro, norm_value, micros)
        total = sum(by_micro)
        if not alone:  # every device has a part of the loss
            parts = torch.tensor(total, dtype=torch.float64, device=norm.device)
            torch.distributed.all_reduce(parts)
            total = float(parts)
        optimizer.step()
        optimizer.zero_grad()
        self.steps_done += 1
        self.log_dict({"loss": total, "lr": rate}, batch_size=1)

    def on_train_start(self) -> None:
        """Take SIGTERM back from Lightning, which would act on it at the end of a batch, in this worker alone."""
        self._stop.take()

    def on_train_end(self) -> None:
        """Check that the trained weights are finite; `StopTraining` if it has to stop after the last micro-batch."""
        self.require_finite_weights()
        self._require_no_stop()

    def _require_no_stop(self) -> None:
        """Stop if SIGTERM has reached a worker, or Ctrl-C the command; all devices have to call it."""
        if self._stop.agreed():
            how = f"by {self._stop.by}"
            raise StopTraining(f"{self.stage}: stopped after step {self.steps_done} of {self._num_steps} {how}")

    def _require_finite(self, losses: Sequence[float], norm: float, batches: Sequence[MicroBatch]) -> None:
        """Refuse to apply gradients that are not finite; name the rows of the micro-batches with such a loss."""
        if math.isfinite(norm) and all(map(math.isfinite, losses)):
            return
        bad = [b for loss, b in zip(losses, batches, strict=True) if not math.isfinite(loss)]
        values = f"is {sum(losses)}" if bad else f"is {sum(losses):.4g} and its gradient {norm}"
        rows = [example.row for batch in bad or batches for example in batch.examples]
        more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
        raise TrainingError(
            f"{self.stage}: the loss of step {self.steps_done + 1} {values}, not a finite number "
            f"(rows {rows[:SHOWN_ROWS]}{more}). The weights were not changed by it. "
            "Fix: a lower learning rate, model.dtype=float32, or correct these rows"
        )

    def require_finite_weights(self) -> None:
        """Refuse to keep weights that are not finite; all devices have to call it."""
        parts = [w.to_local() if isinstance(w, DTensor) else w for w in self._trained]
        # Of a weight with fewer rows than there are workers, some hold none, and an empty tensor has no largest value.
        largest = torch.nn.utils.get_total_norm([p.detach() for p in parts if p.numel() > 0], norm_type=math.inf)
        broken = torch.tensor(int(not math.isfinite(float(largest))), device=parts[0].device)
        if dist.is_initialized():
            dist.all_reduce(broken, op=dist.ReduceOp.MAX)
        if broken:
            raise TrainingError(
                f"{self.stage}: the weights are not finite after step {self.steps_done}. The last checkpoint is from "
                "before. Fix: a lower learning rate, or model.dtype=float32"
            )


def accumulate(
    batches: Sequence[MicroBatch],
    backward: Callable[[MicroBatch], torch.Tensor],
    reset: Callable[[], None],
    smaller: SmallerBatches,
    *,
    fixed: str,
) -> tuple[list[torch.Tensor], list[MicroBatch]]:
    """Accumulate the gradients of an optimizer step; restart it with smaller micro-batches if they do not fit.

    Loss and gradient do not depend on the micro-batches, up to rounding, but dropout masks do.

    Args:
        batches: Micro-batches of the step.
        backward: Adds the gradients of a micro-batch and returns its detached loss.
        reset: Sets the gradients of the step to zero.
        smaller: Limit of the micro-batches; lowered when one does not fit.
        fixed: Reason why the micro-batches cannot be split; then one that does not fit is an error. Empty for none.

    Returns:
        The losses of the micro-batches as they were run, and these.
    """
    while True:
        parts, losses = [part for batch in batches for part in at_most(batch, smaller.most)], []
        try:
            for micro in parts:
                losses.append(backward(micro))
            return losses, parts
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            lengths = parts[len(losses)].packed.lengths
            if fixed and len(lengths) > 1:
                raise MemoryLimitError(
                    f"{smaller.what}: out of memory with {sum(lengths)} tokens at once {fixed}. {MEMORY_FIX}"
                ) from error
            smaller.lower(sum(lengths), error, indivisible=len(lengths) == 1)
        losses.clear()
        release()
        reset()


class ReferenceModule(NextTokenModule):
    """The reference model of CTS: next-token loss on [valuable thinking, response] after the question."""

    stage = "reference"


class SftModule(NextTokenModule):
    """The student: next-token loss on [compressed thinking, response] after the question, by token weights if any."""

    stage = "sft"
