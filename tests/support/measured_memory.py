"""Memory of real runs of small models on the CPU, counted tensor by tensor: plans are compared with it."""

import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cotpress.devices.config import HeadLoss, TrainerConfig
from cotpress.modeling.config import ModelConfig
from cotpress.planning.measure import computed_dtype
from cotpress.training.adapters import make_trainable
from cotpress.training.batching import Example, Examples
from cotpress.training.config import TuneConfig
from cotpress.training.fit import fit
from cotpress.training.module import SftModule
from cotpress.training.sharing import of_masters, pick_sharing


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.note(out)
        return out

    def note(self, values: Any) -> None:
        """Count the tensors in a tree of values, each storage once."""
        for tensor in tree_iter(values):
            if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta":
                continue
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key not in self._known:
                self._known.add(key)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def real_model(config: ModelConfig) -> Any:
    """A model with random weights, from the `config.json` in `config.path`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(config.path),
        dtype=computed_dtype(config),
        attn_implementation=config.attention.value,
    )


def training_peak(
    config: ModelConfig,
    tune: TuneConfig,
    lengths: tuple[int, ...],
    workdir: Path,
    *,
    head_loss: HeadLoss = HeadLoss.chunked,
    checkpointing: bool = False,
) -> int:
    """Peak of a real training of two optimizer steps, each of two micro-batches of sequences of these equal lengths."""
    trainer = TrainerConfig(
        accelerator="cpu",
        tokens_per_batch=sum(lengths),
        head_loss=head_loss,
        activation_checkpointing=checkpointing,
        checkpoint_every_s=1e9,
    )
    tune.sequences_per_step, tune.epochs = 2 * len(lengths), 1
    examples = Examples(kept=[Example(ids=(1,) * n, num_prompt=1) for n in lengths * 4], dropped={})
    computed = computed_dtype(config)
    workdir.mkdir(parents=True)
    with LiveMemory() as memory:
        sharing = pick_sharing(trainer, of_masters(computed))
        model = sharing.load(torch.device("cpu"), lambda _: make_trainable(real_model(config), tune))
        memory.note(list(model.parameters()))
        memory.peak = memory.live
        fit(
            model,
            SftModule,
            examples,
            tune,
            workdir=workdir,
            trainer=trainer,
            log_metrics=lambda *_: None,
            sharing=sharing,
        )
    return memory.peak
