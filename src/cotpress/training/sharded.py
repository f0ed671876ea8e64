"""Weights, gradients and optimizer states cut over the devices (FSDP2, Lightning's `ModelParallelStrategy`).

Each layer is whole only while it computes. What is cut is a `DTensor`, whose `full_tensor()` every device has to call.
Checkpoints are those of one device: whole tensors, in torch's own formats, of the trained parameters only. So a run
that was interrupted goes on with any strategy on any number of devices.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor, distribute_tensor

from cotpress.devices.place import here
from cotpress.training.fit import read_checkpoint
from cotpress.training.masters import layers_of
from cotpress.training.sharing import Alone, Weights, join_process_group


class Sharded(Alone):
    """See `Sharing`. Gradients are summed in float32, whatever the weights are.

    What is gathered of float32 masters is their copies in the format that the forward pass computes in.
    """

    whole = False

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """In main memory, one worker of a machine after the other, so that it holds one whole model at a time."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        place = here()
        join_process_group(device)
        mesh = init_device_mesh(device.type, (place.num_workers,))
        policy = MixedPrecisionPolicy(param_dtype=self._computed, reduce_dtype=torch.float32)
        self._cut = partial(fully_shard, mesh=mesh, mp_policy=policy)
        for turn in range(place.num_local_workers):
            if turn == place.local_rank:
                model = super().load(torch.device("cpu"), make)
                for layer in layers_of(model):
                    self._cut(layer)
            torch.distributed.barrier()
        return model

    def ready(self, called: torch.nn.Module) -> torch.nn.Module:
        """What is outside of layers (embeddings, head, which may be one) is whole while this module is called."""
        self._cut(called)  # in place
        return called

    def strategy(self, max_grad_norm: float) -> Any:
        """One axis of devices, along which everything is cut."""
        return _ShardedStrategy(
            data_parallel_size=here().num_workers, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        """See `Sharing`."""
        norm = super().clip(parameters, max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @contextmanager
    def gathered(self, model: Any) -> Iterator[Weights | None]:
        """Put together in the first worker's main memory, tensor by tensor."""
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {name: value for name, value in model.state_dict().items() if name not in parameters}
        yield _trained_weights(model, self._computed) | buffers


class _ShardedStrategy(ModelParallelStrategy):
    """Reads and writes checkpoints as one device does."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return _trained_weights(self.model)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state: dict[str, Any] = optimizer.state_dict()
        whole = {i: {k: _whole(v) for k, v in values.items()} for i, values in state["state"].items()}
        return {**state, "state": whole}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.model is not None
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(_cut_like(parameter, checkpoint["state_dict"][name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            cut = {i: {k: _cut_like(parameters[i], v) for k, v in s.items()} for i, s in state["state"].items()}
            optimizer.load_state_dict({**state, "state": cut})


def _trained_weights(model: torch.nn.Module, dtype: torch.dtype | None = None) -> Weights:
    """By name, of tied weights the first one, in the first worker's main memory; None in their places elsewhere. A
    `dtype` is that of the result."""
    return {n: _whole(p.detach().to(dtype or p.dtype)) for n, p in model.named_parameters() if p.requires_grad}


def _whole(value: Any) -> Any:
    """A cut tensor put together: on the first worker in main memory, None on the others; anything else as it is."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if here().is_first else None


def _cut_like(parameter: torch.Tensor, value: Any) -> Any:
    """This worker's part of a whole tensor of the parameter's shape; anything else as it is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    local = value.to(parameter.device)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None)
