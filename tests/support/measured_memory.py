"""What training really keeps and holds, counted tensor by tensor: what the plan is held against.

With `fake` nothing is computed and no memory taken, so models of any size can be measured.
"""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cotpress.modeling.config import Attention
from cotpress.modeling.packing import Packed
from cotpress.planning.setting import Setting
from cotpress.planning.shape import ModelShape
from cotpress.training.adapters import checkpointed_activations, make_trainable
from cotpress.training.batching import MicroBatch
from cotpress.training.config import TuneConfig
from cotpress.training.head_loss import SummedLoss, chunked_loss
from cotpress.training.module import LossOfModel
from cotpress.training.sharing import OneDevice


class Measured(NamedTuple):
    """Bytes of one optimizer step of two equal micro-batches, after a first one.

    Attributes:
        states: Weights, gradients and optimizer together, between the micro-batches.
        stored: Kept by the body when its forward pass ends; what is copied around the whole call is not.
        peak: Most that was alive at once beside `states`.
    """

    states: int
    stored: int
    peak: int


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def empty_model(shape: ModelShape, dtype: torch.dtype, attention: Attention = Attention.sdpa) -> Any:
    """A transformers model of a shape, on the meta device."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

    kind: Callable[..., Any] = Qwen3Config if shape.qk_norm else LlamaConfig
    biases = {"attention_bias": shape.output_bias, **({} if shape.qk_norm else {"mlp_bias": shape.mlp_bias})}
    if shape.qkv_bias and not shape.output_bias:
        kind, biases = Qwen2Config, {}
    config = kind(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied_embeddings,
        **biases,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.value)


def trained_model(shape: ModelShape, setting: Setting) -> Any:
    """The same, as it is trained."""
    dtype = torch.bfloat16 if setting.value_bytes == 2 else torch.float32
    tune = TuneConfig(
        method=setting.method,
        learning_rate=1e-3,
        epochs=1,
        sequences_per_step=1,
        seed=0,
        lora_rank=setting.lora_rank,
    )
    return make_trainable(empty_model(shape, dtype, setting.attention), tune)


def fill(model: Any) -> None:
    """Give a model on the meta device memory of the current mode."""
    filled: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is not None and id(old) not in filled:
                value = torch.full(old.shape, 0.01, dtype=old.dtype)
                filled[id(old)] = torch.nn.Parameter(value, requires_grad=old.requires_grad)
            if old is not None:
                module._parameters[name] = filled[id(old)]
        for name, old in list(module._buffers.items()):
            if old is not None:
                module._buffers[name] = torch.ones(old.shape, dtype=old.dtype)


def _copies(model: torch.nn.Module) -> list[torch.Tensor]:
    """What stands in the places of master weights just now."""
    found = {id(p): p for module in model.modules() for p in module._parameters.values() if p is not None}
    return [p for p in found.values() if not isinstance(p, torch.nn.Parameter)]


def measure_training(
    shape: ModelShape,
    setting: Setting,
    lengths: tuple[int, ...],
    loss: SummedLoss = chunked_loss,
    *,
    fake: bool = False,
) -> Measured:
    """One step of training, with every token but the last of each sequence as a target."""
    sharing = OneDevice(torch.bfloat16 if setting.copied else None)
    model = sharing.load(torch.device("meta"), lambda _: trained_model(shape, setting))
    with FakeTensorMode() if fake else contextlib.nullcontext(), LiveMemory() as memory:
        fill(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        ids = torch.ones(1, sum(lengths), dtype=torch.long)
        packed = Packed(ids=ids, positions=ids, lengths=lengths)
        predicting = torch.arange(sum(lengths) - len(lengths))
        batch = MicroBatch(packed=packed, predicting=predicting, targets=torch.ones_like(predicting), number=0)

        def noting(
            states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
        ) -> torch.Tensor:
            taken = states.nbytes + states.nbytes // len(predicting) * sum(lengths)  # those with a target, and all
            taken += sum(copy.nbytes for copy in _copies(model))
            found["stored"] = memory.live - found["states"] - taken
            return loss(states, weight, bias, targets)

        called: Any = sharing.ready(LossOfModel(model, noting))
        found = {"states": 0}
        with checkpointed_activations(model, enabled=setting.checkpointing):
            for _ in range(2):
                for _ in range(2):
                    found["states"] = memory.peak = memory.live
                    called(batch).backward()
                    found["peak"] = memory.peak - found["states"]
                optimizer.step()
                optimizer.zero_grad()
    inputs = ids.nbytes + predicting.nbytes + batch.targets.nbytes
    return Measured(states=found["states"] - inputs, stored=found["stored"], peak=found["peak"])
