"""Masked next-token training of a causal language model: one Lightning step is one optimizer step.

The loss of a step is the summed negative log-likelihood of its target tokens divided by their number over all
micro-batches and ranks, so it does not depend on how the step is cut to fit the memory.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.functional import linear_cross_entropy
from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

from cotpress.errors import TrainingError
from cotpress.modeling.loading import split_head
from cotpress.training.batching import IGNORED, MicroBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """AdamW under a cosine schedule with linear warmup.

    Attributes:
        num_steps: Optimizer steps of the whole run.
        max_grad_norm: Gradient norm above which gradients are scaled down; 0 turns it off.
        seed: Seed of dropout, drawn anew per step so that a resumed run repeats it.
    """

    learning_rate: float
    num_steps: int
    warmup_fraction: float
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    seed: int


def learning_rate_factor(step: int, num_steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at a step counted from 0: a linear rise, then half a cosine towards 0."""
    warmup = math.ceil(warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(num_steps - warmup, 1)))


def summed_loss(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood of the targets, a scalar in nats.

    The vocabulary is only looked at where there is a target, in chunks: the logits never exist at once.

    Args:
        model: Causal language model, bare or wrapped by PEFT.
        inputs: int64 `[B, L]`.
        targets: int64 `[B, L]`, `IGNORED` where there is none.
    """
    parts = split_head(model)
    head: Any = parts.head
    hidden = parts.decoder(input_ids=inputs, use_cache=False).last_hidden_state
    wanted = targets != IGNORED
    if not bool(wanted.any()):
        return hidden.sum() * 0.0  # keeps pace with the other ranks
    rows, labels = hidden[wanted], targets[wanted]
    # Below one hidden width of rows the chunked path costs more than it saves.
    options = LinearCrossEntropyOptions() if len(rows) >= rows.shape[-1] and torch.is_grad_enabled() else None
    return linear_cross_entropy(
        rows, head.weight, labels, linear_bias=head.bias, reduction="sum", ignore_index=IGNORED, options=options
    )


class CausalModule(pl.LightningModule):
    """Fine-tunes whatever parameters of the model require gradients; a checkpoint holds only those."""

    metric_prefix = "train"

    def __init__(self, model: torch.nn.Module, optimization: Optimization) -> None:
        super().__init__()
        self.model = model
        self.automatic_optimization = False
        self.strict_loading = False  # frozen weights come from the base model
        self._optimization = optimization

    def training_step(self, step: list[MicroBatch], batch_idx: int) -> dict[str, torch.Tensor]:
        """One optimizer step; `loss` in nats per target token, and what else the log shows."""
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        torch.manual_seed(self._optimization.seed + batch_idx)
        num_targets = self._sum_over_ranks(sum((targets != IGNORED).sum() for _, targets in step))  # type: ignore[arg-type]
        total = torch.zeros((), device=self.device)
        for inputs, targets in step:
            loss = summed_loss(self.model, inputs, targets) / num_targets
            # Data-parallel strategies average gradients over ranks; here the ranks' shares add up.
            self.manual_backward(loss * self.trainer.world_size)
            total += loss.detach().float()
        total = self._sum_over_ranks(total)
        if not bool(torch.isfinite(total)):
            raise TrainingError(
                f"training: the loss of step {batch_idx + 1} is {float(total)}. "
                "Fix: lower the learning rate (tune.learning_rate), or use model.dtype=float32"
            )
        norm = self._clip()
        rate = torch.tensor(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        logged = {"loss": total, "learning_rate": rate, "grad_norm": norm, "num_target_tokens": num_targets.float()}
        self.log_dict({f"{self.metric_prefix}/{name}": value for name, value in logged.items()}, batch_size=1)
        return {"loss": total, "learning_rate": rate, "num_target_tokens": num_targets}

    def configure_optimizers(self) -> Any:
        """AdamW on the trainable parameters, with its schedule per optimizer step."""
        settings = self._optimization
        trainable = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, settings.num_steps, settings.warmup_fraction)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Trainable parameters only: a checkpoint of an adapter run is as small as the adapter."""
        names = {name for name, p in self.named_parameters() if p.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in names}

    def _clip(self) -> torch.Tensor:
        limit = self._optimization.max_grad_norm or math.inf
        return torch.nn.utils.clip_grad_norm_([p for p in self.parameters() if p.requires_grad], limit)

    def _sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        if self.trainer.world_size == 1:
            return value
        summed = self.trainer.strategy.reduce(value, reduce_op="sum")
        assert isinstance(summed, torch.Tensor)
        return summed


class ReferenceModule(CausalModule):
    """Trains the reference model on valuable tokens only."""

    metric_prefix = "reference"


class SftModule(CausalModule):
    """Trains the student on compressed chains of thought."""

    metric_prefix = "sft"
