"""Weights, gradients and optimizer states cut over the devices by DeepSpeed's ZeRO stage 3.

As with FSDP2, checkpoints are those of one device: whole tensors of the trained parameters, in torch's formats. They
are not DeepSpeed's folders, which hold pickled objects and can be read by as many devices only. So a run that was
interrupted goes on with any strategy on any number of devices. Run with two processes on the CPU; never on GPUs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DeepSpeedStrategy

from cotpress.devices.place import here
from cotpress.training.fit import read_checkpoint
from cotpress.training.sharing import Alone, Weights

_MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter, besides the number of steps."""


class Zero(Alone):
    """See `Sharing`."""

    whole = False

    def load(self, device: torch.device, make: Callable[[torch.device], Any]) -> Any:
        """In main memory; DeepSpeed cuts it when it sets up its engine."""
        model = make(torch.device("cpu"))
        self._bfloat16 = any(p.dtype is torch.bfloat16 for p in model.parameters())
        return model

    def strategy(self, max_grad_norm: float) -> Any:
        """ZeRO stage 3; it clips gradients by itself, as they are nowhere whole.

        With weights in bfloat16 it makes all of them so, those of an adapter too, and keeps what is trained in float32
        besides.
        """
        strategy = _ZeroStrategy(stage=3, logging_batch_size_per_gpu=1, precision_plugin=_NumbersAsTheyAre("32-true"))
        assert isinstance(strategy.config, dict)
        strategy.config["gradient_clipping"] = max_grad_norm
        strategy.config["bf16"] = {"enabled": self._bfloat16}
        return strategy

    @contextmanager
    def micro_batch(self, trainer: pl.Trainer, *, last: bool) -> Iterator[None]:
        """The engine adds gradients up until it is told that a step is complete."""
        engine: Any = trainer.strategy.model
        engine.set_gradient_accumulation_boundary(is_boundary=last)
        yield

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> torch.Tensor:
        """The engine does, when it steps; so the norm is not known yet, and 0 stands for it."""
        return torch.zeros(())

    @contextmanager
    def gathered(self, model: Any) -> Iterator[Weights | None]:
        """Put together in the first worker's main memory, tensor by tensor."""
        whole = {n: (p.dtype, w) for n, p, w in _whole_weights(model)}
        yield {n: w.to(dtype) for n, (dtype, w) in whole.items() if w is not None} if here().is_first else None


class _NumbersAsTheyAre(DeepSpeedPrecision):
    """A step holds token ids, which have no number format; Lightning would look for floats in it."""

    def convert_input(self, data: Any) -> Any:
        return data


class _ZeroStrategy(DeepSpeedStrategy):
    """Reads and writes checkpoints as one device does."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """In float32, whatever the weights that compute are in."""
        return {name: whole for name, _, whole in _whole_weights(self.lightning_module)}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """As torch's AdamW has it: by the place of a parameter among those that are trained."""
        from deepspeed.utils import safe_get_full_optimizer_state

        parameters, inner = [p for _, p in _trained(self.lightning_module)], optimizer.optimizer
        steps = next(iter(inner.state.values()))["step"]
        state = {
            i: {"step": steps.clone(), **{m: _on_first(safe_get_full_optimizer_state(p, m)) for m in _MOMENTS}}
            for i, p in enumerate(parameters)
        }
        group = {**inner.param_groups[0], "params": list(range(len(parameters)))}
        return {"state": state, "param_groups": [group]}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Both into the weights that compute and into the float32 ones that the optimizer keeps besides."""
        from deepspeed.utils import safe_set_local_fp32_param

        for name, parameter in _trained(self.lightning_module):
            mine = self._cut(parameter, checkpoint["state_dict"][name])
            safe_set_local_fp32_param(parameter, mine)
            parameter.ds_tensor.data.copy_(mine)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        [state] = checkpoint["optimizer_states"]
        [group] = state["param_groups"]
        optimizer: Any = self.optimizers[0]
        optimizer.optimizer.param_groups[0].update({k: v for k, v in group.items() if k != "params"})  # its rate
        for flat in optimizer.fp32_partitioned_groups_flat:  # torch makes them at the first step
            moments = {m: torch.zeros_like(flat) for m in _MOMENTS}
            optimizer.optimizer.state[flat] = {"step": state["state"][0]["step"].clone(), **moments}
        for i, (_, parameter) in enumerate(_trained(self.lightning_module)):
            for moment in _MOMENTS:
                mine = self._cut(parameter, state["state"][i][moment])
                safe_set_local_optimizer_state(parameter, mine, moment)

    def _cut(self, parameter: Any, whole: torch.Tensor) -> torch.Tensor:
        """This worker's part of a whole tensor, filled up with zeros to the size of all parts, flat."""
        size = parameter.ds_tensor.numel()
        mine = whole.flatten()[size * self.global_rank : size * (self.global_rank + 1)]
        return torch.nn.functional.pad(mine, (0, size - mine.numel())).to(parameter.ds_tensor.device)


def _trained(model: Any) -> list[tuple[str, Any]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def _whole_weights(model: Any) -> Iterator[tuple[str, Any, torch.Tensor | None]]:
    """Name, parameter and what the optimizer keeps of it, put together; all workers have to go through them."""
    from deepspeed.utils import safe_get_full_fp32_param

    for name, parameter in _trained(model):
        yield name, parameter, _on_first(safe_get_full_fp32_param(parameter))


def _on_first(whole: torch.Tensor) -> torch.Tensor | None:
    """In the first worker's main memory; None elsewhere."""
    return whole.detach().cpu().clone() if here().is_first else None
