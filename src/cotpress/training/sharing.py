"""Float32 master weights, and the strategies by which devices share one training.

    OneDevice   one device, in this process
    Replicated  ddp: a whole model on each device; gradients are summed after the last micro-batch of a step
    Sharded     fsdp2: weights, gradients and optimizer states are sharded over the devices

The strategies average gradients over devices; the module multiplies its loss by their number, so the result is the sum,
as on one device.

Master weights are what the optimizer updates while the model computes in its own number format. At a fine-tuning
learning rate most updates are smaller than half the distance of two neighbouring bfloat16 numbers, so bfloat16 weights
would not change at all (arXiv 1710.03740, section 3.1). Of a bfloat16 model the parameters that are trained, all of
them or those of a LoRA adapter, their gradients and AdamW's moments are therefore float32, and the forward pass
computes with copies: each layer copies its own when it is called, and those outside of layers (embeddings, last norm,
head) are copied around the whole call. FSDP2's `param_dtype` does the same. Unlike with autocast, every operation gets
numbers in the format of the model. PEFT alone would compute with float32 adapters, for which every adapted matrix keeps
a float32 copy of its input.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import groupby
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.tensor import DTensor

from cotpress.devices.config import Strategy, TrainerConfig, offload_error
from cotpress.devices.launch import here, join_process_group
from cotpress.errors import ConfigError


def of_masters(computed: torch.dtype) -> torch.dtype | None:
    """The number format of the copies that a model which computes in this format needs; None if it needs none."""
    return None if computed is torch.float32 else computed


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The decoder layers of a transformers model; empty if the model does not name them."""
    names = set(model._no_split_modules or ())
    return [m for m in model.modules() if type(m).__name__ in names]


def _compute_with_copies(module: torch.nn.Module, dtype: torch.dtype, left_out: set[torch.nn.Parameter]) -> None:
    """Make a module compute with copies of the trained masters in it, by changing its class as FSDP2 does.

    transformers recomputes `forward` for activation checkpointing, without hooks, so a hook could not make the copies.
    """
    kind: Any = type(module)
    owned = [(m, name, p) for m in module.modules() for name, p in m._parameters.items() if p is not None]
    slots = [s for s in owned if s[2].requires_grad and s[2] not in left_out]  # a tied weight has several

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        copies: dict[int, Any] = {id(p): p.to(dtype) for _, _, p in slots}  # gradients flow to the masters
        try:
            for owner, name, parameter in slots:
                owner._parameters[name] = copies[id(parameter)]
            return kind.forward(self, *args, **kwargs)
        finally:
            for owner, name, parameter in slots:
                owner._parameters[name] = parameter

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


_LAYER = re.compile(r"^.*?\.\d+\.")
"""Start of the names of a layer's parameters."""
Weights = dict[str, torch.Tensor]
"""Parameters by name, in main memory; in another worker than the first one without values."""


def pick_sharing(trainer: TrainerConfig, computed: torch.dtype | None = None) -> "OneDevice":
    """The strategy for these workers; `computed` as in `OneDevice`. `trainer.offload` on one device is an error."""
    if here().num_workers == 1:
        if trainer.offload:
            raise ConfigError(offload_error(trainer))
        return OneDevice(computed)
    if trainer.strategy is Strategy.fsdp2:
        return Sharded(computed, offload=trainer.offload)
    return Replicated(computed)


class OneDevice:
    """One device that holds everything; the base of the other strategies.

    Args:
        computed: Number format of the forward pass where float32 masters are trained; None if the weights are trained
            in their own format.
    """

    whole = True
    """True if every device holds the whole model, so that it can answer problems during training."""

    def __init__(self, computed: torch.dtype | None = None) -> None:
        self._computed = computed
        self._saved: torch.dtype | None = None
        """Number format of the saved weights; None for that in which they are trained, as adapters are."""

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """The trainable model, distributed by the strategy; `make` loads one onto a device."""
        model = make(device)
        if self._computed is not None:
            for parameter in model.parameters():
                if parameter.requires_grad and parameter.dtype is not torch.float32:
                    parameter.data, self._saved = parameter.data.float(), self._computed
        return model

    def ready(self, called: torch.nn.Module) -> torch.nn.Module:
        """Prepare the module that training calls, in place; the loaded model is its submodule `model`."""
        if self._computed is not None:
            layers = layers_of(called.get_submodule("model"))
            for layer in layers:
                _compute_with_copies(layer, self._computed, left_out=set())
            inside = {parameter for layer in layers for parameter in layer.parameters()}
            _compute_with_copies(called, self._computed, left_out=inside)
        return called

    def strategy(self) -> Any:
        """The strategy argument of `pl.Trainer`."""
        return "auto"

    def micro_batch(self, trainer: pl.Trainer, *, last: bool) -> AbstractContextManager[None]:
        """A context for forward and backward pass of a micro-batch; `last` is true for the last one of a step."""
        return nullcontext()

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        """Scale gradients down to a norm over all parameters and devices (0 leaves them); returns their norm before."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def gathered(self, model: Any) -> AbstractContextManager[Iterator[Weights] | None]:
        """A context, for all workers, with the trained weights to save; None if those in the model are whole.

        They come a layer at a time, and each worker has to take them all.
        """
        return self.as_saved(model)

    @contextmanager
    def as_saved(self, model: Any) -> Iterator[None]:
        """A context, between optimizer steps, in which a whole model has weights of the format that is saved."""
        dtype = self._saved
        masters = [] if dtype is None else [(p, p.data) for p in model.parameters() if p.requires_grad]
        try:
            for parameter, master in masters:
                parameter.data = master.to(dtype=dtype)
            yield
        finally:
            for parameter, master in masters:
                parameter.data = master


class Replicated(OneDevice):
    """A whole model on each device."""

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """Load one on each device."""
        join_process_group(device)
        return super().load(device, make)

    def strategy(self) -> Any:
        """Gradients live in the buckets that are sent, not twice; no buffer changes in training."""
        return DDPStrategy(gradient_as_bucket_view=True, forward_sync_buffers=False)

    def micro_batch(self, trainer: pl.Trainer, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are summed over devices once per step, while the last backward pass still runs."""
        replica: Any = trainer.strategy.model
        shared: AbstractContextManager[None] = nullcontext() if last else replica.no_sync()
        return shared


class Sharded(OneDevice):
    """FSDP2: a layer is whole only while it computes; between, each device holds a share of it, a `DTensor`.

    Gradients are summed in float32, whatever the format of the weights. Float32 masters are gathered as copies in the
    format that the forward pass computes in. With `offload`, weights, gradients and optimizer states are kept in main
    memory, where the optimizer runs. `DTensor.full_tensor` is a collective call.
    """

    whole = False

    def __init__(self, computed: torch.dtype | None = None, *, offload: bool = False) -> None:
        super().__init__(computed)
        self._offload = offload

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """Load in main memory, one worker of a machine after the other, so that it holds one whole model at a time."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        place = here()
        join_process_group(device, host_tensors=self._offload)
        self._shard = partial(
            fully_shard,
            mesh=init_device_mesh(device.type, (place.num_workers,)),
            mp_policy=MixedPrecisionPolicy(param_dtype=self._computed, reduce_dtype=torch.float32),
            offload_policy=offload_policy(device, offload=self._offload),
        )
        for turn in range(place.num_local):
            if turn == place.local_rank:
                model = super().load(torch.device("cpu"), make)
                for layer in layers_of(model):
                    self._shard(layer)
            torch.distributed.barrier()
        return model

    def ready(self, called: torch.nn.Module) -> torch.nn.Module:
        """Shard the weights outside of layers (embeddings, head, often tied), which are whole during each call."""
        self._shard(called)
        return called

    def strategy(self) -> Any:
        """One mesh dimension, along which everything is sharded."""
        return _ShardedStrategy(offload=self._offload)

    @contextmanager
    def gathered(self, model: Any) -> Iterator[Iterator[Weights]]:
        """Gather in the first worker's main memory, which holds one layer at a time."""
        yield self._by_layer(model)

    def _by_layer(self, model: Any) -> Iterator[Weights]:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]  # of tied ones the first
        for _, layer in groupby(named, key=lambda item: (_LAYER.findall(item[0]) or [""])[0]):
            yield {name: _whole(p.detach().to(self._saved or p.dtype)) for name, p in layer}
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        if buffers := {name: value for name, value in model.state_dict().items() if name not in parameters}:
            yield buffers


def offload_policy(device: torch.device, *, offload: bool) -> Any:
    """FSDP2's policy for workers that compute on such a device; memory that a GPU copies from is page-locked."""
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

    return CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy()


class _ShardedStrategy(ModelParallelStrategy):
    """Leaves offloaded parameters in main memory."""

    def __init__(self, *, offload: bool) -> None:
        super().__init__(data_parallel_size=here().num_workers, tensor_parallel_size=1)
        self.offload = offload

    def model_to_device(self) -> None:
        """Move the model to the device, unless it is offloaded."""
        if not self.offload:
            super().model_to_device()


def _whole(value: Any) -> Any:
    """A sharded tensor gathered: in the first worker's main memory, None on the others; any other value unchanged."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if here().is_first else None
