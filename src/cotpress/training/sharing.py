"""How several devices share one training: what differs between the strategies, and nothing else.

    Alone       one device, in this process
    Replicated  ddp: a whole model on each, gradients summed after the last micro-batch of a step
    Sharded     fsdp2: weights, gradients and optimizer states cut over the devices (`sharded`)
    Zero        deepspeed: the same by ZeRO stage 3 (`zero`)

Every strategy averages gradients over devices; the module scales its loss up by their number, so that what comes out is
the sum, as on one device.
"""

import contextlib
import datetime
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from cotpress.training.masters import compute_in, in_format, layers_of, make_masters

Weights = dict[str, torch.Tensor]
"""Parameters by name, on the CPU."""


class Sharing(Protocol):
    """One way of sharing.

    Attributes:
        whole: True if every device holds the whole model, so that it can answer problems during training.
    """

    whole: bool

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """The trainable model as the strategy wants it; `make` loads one onto a device."""

    def ready(self, called: torch.nn.Module) -> torch.nn.Module:
        """The module that training calls, with the loaded model in it, as the strategy wants it."""

    def strategy(self, max_grad_norm: float) -> Any:
        """What Lightning is told."""

    def micro_batch(self, trainer: pl.Trainer, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward pass of a micro-batch; only the last of a step has to share gradients."""

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        """Scale gradients down whose norm over all parameters and devices is larger; 0 leaves them.

        Returns:
            The norm before that, a scalar.
        """

    def gathered(self, model: Any) -> AbstractContextManager[Weights | None]:
        """The trained weights, for the first worker to save; None if those in the model are whole. All call it."""

    def as_saved(self, model: Any) -> AbstractContextManager[None]:
        """Around questions to a whole model: its weights are in the format that they are saved in."""


class Alone:
    """See `Sharing`.

    Args:
        computed: Format that the forward pass computes in where float32 masters are trained (`masters`); None if the
            weights are trained in the format that they have.
    """

    whole = True

    def __init__(self, computed: torch.dtype | None = None) -> None:
        self._computed = computed

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """Straight onto the device."""
        model = make(device)
        if self._computed is not None:
            make_masters(model)
        return model

    def ready(self, called: torch.nn.Module) -> torch.nn.Module:
        """As it is, but for the number format."""
        if self._computed is not None:
            compute_in(called, layers_of(called.get_submodule("model")), self._computed)
        return called

    def strategy(self, max_grad_norm: float) -> Any:
        """Lightning's own choice for one device."""
        return "auto"

    def micro_batch(self, trainer: pl.Trainer, *, last: bool) -> AbstractContextManager[None]:
        """Nothing to share."""
        return contextlib.nullcontext()

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        """See `Sharing`."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf)

    def gathered(self, model: Any) -> AbstractContextManager[Weights | None]:
        """They are whole."""
        return self.as_saved(model)

    def as_saved(self, model: Any) -> AbstractContextManager[None]:
        """See `Sharing`."""
        return in_format(model, self._computed)


class Replicated(Alone):
    """See `Sharing`."""

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """One on each device."""
        join_process_group(device)
        return super().load(device, make)

    def strategy(self, max_grad_norm: float) -> Any:
        """Gradients live in the buckets that are sent, not twice; no buffer changes in training."""
        return DDPStrategy(gradient_as_bucket_view=True, forward_sync_buffers=False)

    def micro_batch(self, trainer: pl.Trainer, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are summed over devices once per step, while the last backward pass still runs."""
        replica: Any = trainer.strategy.model
        shared: AbstractContextManager[None] = contextlib.nullcontext() if last else replica.no_sync()
        return shared


def join_process_group(device: torch.device) -> None:
    """Meet the other workers; Lightning finds the group there.

    Nobody waits for the dead, as torch's agent ends all workers when one is gone, so a wait may take its time: others
    load a model, or the first worker answers validation problems.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=datetime.timedelta(hours=12))
