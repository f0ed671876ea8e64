"""The Lightning modules: masked next-token loss, weighted by tokens over a whole optimizer step.

They see a model and batches; no configuration, tokenizer, file or tracking service.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler

from cotpress.devices.place import here
from cotpress.errors import TrainingError
from cotpress.modeling.loading import split_head
from cotpress.modeling.packing import packed_states
from cotpress.training.batching import MicroBatch, Step
from cotpress.training.gradients import StepGradients, require_finite, require_finite_weights
from cotpress.training.head_loss import SummedLoss, plain_loss
from cotpress.training.sharing import Alone, Sharing


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """AdamW with linear warmup and cosine decay to zero.

    Attributes:
        learning_rate: Peak learning rate.
        num_steps: Optimizer steps of the whole run.
        warmup_fraction: Share of the steps with rising learning rate.
        weight_decay: Decoupled weight decay.
        betas: Moment decays.
        max_grad_norm: Gradient norm above which gradients are scaled down; 0 turns it off.
        seed: Seed of dropout.
    """

    learning_rate: float
    num_steps: int
    warmup_fraction: float
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    seed: int

    def factor(self, step: int) -> float:
        """Learning rate of a step (counted from 0) relative to the peak."""
        warmup = max(round(self.warmup_fraction * self.num_steps), 1)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(self.num_steps - warmup, 1)))


class LossOfModel(torch.nn.Module):
    """A causal language model that answers a micro-batch with its loss: one call, in which weights that are cut over
    devices are whole."""

    def __init__(self, model: torch.nn.Module, summed_loss: SummedLoss) -> None:
        super().__init__()
        self.model, self._summed_loss = model, summed_loss

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Summed negative log-likelihood of the targets, in nats; scalar float32.

        The head sees only positions with a target.
        """
        split = split_head(self.model)
        states = packed_states(split.decoder, batch.packed)
        head: Any = split.head
        loss = self._summed_loss if len(batch.targets) > 0 else plain_loss  # kernels need not know about none at all
        return loss(states.index_select(0, batch.predicting), head.weight, head.bias, batch.targets)


class NextTokenModule(pl.LightningModule):
    """Trains the trainable parameters of a causal language model, one optimizer step per `Step`.

    The loss is the sum over all target tokens of the step divided by their number, however they are spread over
    micro-batches and devices: a mean of micro-batch means would weight the tokens of short batches more.
    """

    stage = "train"

    def __init__(
        self, model: torch.nn.Module, schedule: Schedule, summed_loss: SummedLoss, sharing: Sharing | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the trained parameters only
        self._sharing = sharing or Alone()
        self.loss_sum = self._sharing.ready(LossOfModel(model, summed_loss))
        self._schedule = schedule
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._gradients = StepGradients(self.stage)

    @property
    def model(self) -> torch.nn.Module:
        """What is trained."""
        return self.loss_sum.get_submodule("model")

    @contextmanager
    def answering(self) -> Iterator[torch.nn.Module]:
        """The model as it will be saved: in eval mode, its weights in their own number format."""
        with self._sharing.as_saved(self.model):
            self.model.eval()
            yield self.model
            self.model.train()

    def configure_model(self) -> None:
        """Nothing: a model to be cut comes cut, and Lightning wants to know that somebody has thought of it."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over what is trainable, with the schedule."""
        s = self._schedule
        optimizer = torch.optim.AdamW(
            self._trained,
            lr=s.learning_rate,
            betas=s.betas,
            weight_decay=s.weight_decay,
            fused=True,
        )
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, s.factor)}

    def transfer_batch_to_device(self, batch: Step, device: torch.device, dataloader_idx: int) -> Step:
        """Move every micro-batch."""
        moved = [b.to(device) for b in batch.batches]
        return Step(batches=moved, num_targets=batch.num_targets, num_tokens=batch.num_tokens)

    def training_step(self, batch: Step, batch_idx: int) -> None:
        """One optimizer step.

        Raises:
            TrainingError: Loss or gradient are not finite.
            MemoryLimitError: A single sequence does not fit the memory.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        losses, micros = self._gradients.accumulate(
            batch.batches, self._backward(batch, batch_idx), optimizer.zero_grad, alone=here().num_workers == 1
        )
        norm = self._sharing.clip(self._trained, self._schedule.max_grad_norm)
        # The only place of a step that waits for the device.
        *by_micro, norm_reached = torch.stack([*losses, norm.float()]).double().tolist()
        require_finite(self.global_step + 1, by_micro, norm_reached, micros, self.stage)
        total = _over_devices(sum(by_micro), norm.device)
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        self.log_dict({f"{self.stage}/loss": total, f"{self.stage}/lr": rate}, batch_size=1)

    def _backward(self, batch: Step, step: int) -> Callable[[MicroBatch], torch.Tensor]:
        """What adds the gradients of a micro-batch and returns its part of the loss, in nats per target token of all
        devices."""
        num_workers = here().num_workers

        def backward(micro: MicroBatch) -> torch.Tensor:
            with self._sharing.micro_batch(self.trainer, last=micro is batch.batches[-1]):
                torch.manual_seed(_dropout_seed(self._schedule.seed, step, micro.number))
                loss: torch.Tensor = self.loss_sum(micro) / batch.num_targets
                self.manual_backward(loss * num_workers)  # of which the strategies take the mean
            return loss.detach()

        return backward

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint without the weights that are trained: it would count as done what is lost.

        Raises:
            TrainingError: Another version of this package has written it.
        """
        trained = {n for n, p in self.named_parameters() if p.requires_grad}
        if trained - set(checkpoint.get("state_dict", trained)):
            raise TrainingError(
                f"{self.stage}: the checkpoint of the interrupted run holds other weights than are trained. Fix: "
                f"remove the folders artifacts/.partial/{self.stage}-* of the output directory; training starts anew"
            )

    def on_train_end(self) -> None:
        """What is handed over is finite.

        Raises:
            TrainingError: It is not.
        """
        require_finite_weights(self._trained, self.stage, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained parameters only: a checkpoint of an adapter is megabytes, not the whole model.

        Raises:
            TrainingError: They are not finite.
        """
        require_finite_weights(self._trained, self.stage, self.global_step)
        trained = {n for n, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {n: w for n, w in checkpoint["state_dict"].items() if n in trained}


def _over_devices(loss: float, device: torch.device) -> float:
    """The sum over all devices of what each has of the loss of a step."""
    if here().num_workers == 1:
        return loss
    total = torch.tensor(loss, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return float(total)


def _dropout_seed(*numbers: int) -> int:
    """The same on every device that may do this micro-batch, and in a resumed run."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class ReferenceModule(NextTokenModule):
    """The reference model of CTS: next-token loss on [valuable thinking, response] after the question."""

    stage = "reference"


class SftModule(NextTokenModule):
    """The student: next-token loss on [compressed thinking, response] after the question."""

    stage = "sft"
