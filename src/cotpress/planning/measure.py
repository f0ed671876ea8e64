"""Memory and arithmetic of the code that trains, scores and writes, run on tensors without values.

torch's fake tensors have shapes and formats but no memory, so that a model of any size runs on one CPU core in seconds.
torch's `MemTracker` counts the bytes that are alive, and its `FlopCounterMode` the operations. Sharding runs under a
process group that does not communicate.

Not measured: the logits of scoring on a GPU, whose chunks are larger than on a CPU (`_LOGITS_AT_ONCE`); kernels that
need a GPU (flash attention, Liger), for which sdpa and the chunked loss stand in; workspaces inside of kernels.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed._tools.mod_tracker import ModTracker
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from cotpress.devices.config import HeadLoss
from cotpress.generation.hf import PromptReader, next_logits
from cotpress.generation.row_cache import RowCache
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import split_head
from cotpress.modeling.packing import pack, packed_states, packing_obstacle
from cotpress.planning.models import computed_dtype, fill, over_depth
from cotpress.training.adapters import checkpointed_activations, make_trainable
from cotpress.training.batching import Example, MicroBatch, collate
from cotpress.training.config import TuneConfig
from cotpress.training.head_loss import pick_head_loss
from cotpress.training.module import LossOfModel
from cotpress.training.sharing import compute_in, layers_of, make_masters, needs_masters

_LOGITS_AT_ONCE, _LOGIT_BYTES = 2**27, 10
"""Logits in memory at once on a GPU (`modeling.head`), and bytes of each: in bfloat16, in float32, and a copy."""
_ROWS = 2
"""Answers that are written when writing is measured; every further one takes as much."""
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory of one device at its peak, in bytes.

    Attributes:
        weights: Model and adapter; float32 masters where all weights are trained.
        gradients: Of what is trained.
        optimizer: AdamW's moments.
        activations: Everything else that is alive at the peak: activations, logits, temporary tensors, and with fsdp2
            weights and gradients on their way between devices. In writing it is the cache of keys and values.
    """

    weights: float
    gradients: float = 0
    optimizer: float = 0
    activations: float = 0

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """Writing answers with a model.

    Attributes:
        weights: Bytes of the model.
        row: Bytes for each answer that is written at the same time.
        cache: Bytes of keys and values of one token.
        prompt_flops: Operations of reading one prompt.
        token_flops: Operations of one more token of an answer, with the whole answer before it.
    """

    weights: float
    row: float
    cache: float
    prompt_flops: float
    token_flops: float


class _NoModules(ModTracker):
    """Registers none of the hooks that follow modules: with them, tensors of checkpointed layers live longer."""

    def __enter__(self) -> "_NoModules":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Memory(MemTracker):
    """torch's tracker without its statistics by module."""

    def __init__(self) -> None:
        super().__init__()
        self._mod_tracker = _NoModules()  # type: ignore[no-untyped-call]

    def bytes_of(self, kind: str, moment: str = "current") -> int:
        """Bytes of a kind of tensors, e.g. `Parameter` or `Total`, now or at the peak."""
        parts = [part for device in self.get_tracker_snapshot(moment).values() for part in device.items()]
        return sum(size for name, size in parts if getattr(name, "value", name) == kind)


def _counter() -> FlopCounterMode:
    """torch's counter, with two operations that it leaves out: attention on a CPU, and a product that is added."""
    aten: Any = torch.ops.aten
    counted: Any = flop_counter
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
            aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: counted.sdpa_flop_count(
                q, k, v
            ),
            aten._scaled_dot_product_flash_attention_for_cpu_backward: (
                lambda g, q, k, v, *_, **__: counted.sdpa_backward_flop_count(g, q, k, v)
            ),
        },
    )


@contextmanager
def _mesh(devices: int) -> Iterator[Any]:
    """A mesh of devices of which only this process exists; None for one device."""
    if devices == 1:
        yield None
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    excepthook = sys.excepthook  # which torch replaces
    torch.distributed.init_process_group("fake", rank=0, world_size=devices, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (devices,))
    finally:
        torch.distributed.destroy_process_group()
        sys.excepthook = excepthook


def training_pass(
    config: ModelConfig,
    tune: TuneConfig,
    lengths: Sequence[int],
    *,
    head_loss: HeadLoss = HeadLoss.chunked,
    checkpointing: bool = False,
    devices: int = 1,
) -> Usage:
    """Memory of a device during a micro-batch.

    Gradients and moments exist from the start, as in every micro-batch of a training but the first ones.

    Args:
        config: The model.
        tune: How it is trained.
        lengths: Tokens of the packed sequences; all but the first token of each have a loss.
        head_loss: `trainer.head_loss`; `auto` and `liger` count as `chunked`.
        checkpointing: `trainer.activation_checkpointing`.
        devices: Number of devices over which fsdp2 shards the model.
    """

    def measure(model: Any) -> Sequence[float]:
        with _mesh(devices) as mesh, _trainable(config, tune, model, head_loss, mesh) as called:
            trained = [p for p in called.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, fused=True)
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # makes the moments
            memory = _Memory()
            memory.track_external(called, optimizer)
            with _checkpointed(called, checkpointing), memory:
                states = [memory.bytes_of(kind) for kind in ("Parameter", "Buffer", "Gradient", "Optstate")]
                called(_batch(called.model, lengths)).backward()
            return *states, memory.bytes_of("Total", "peak") - sum(states)

    few = 2 if devices == 1 else 3  # fsdp2 holds up to three layers
    weights, buffers, gradients, optimizer, activations = over_depth(config, measure, few)
    return Usage(weights=weights + buffers, gradients=gradients, optimizer=optimizer, activations=activations)


def training_flops(
    config: ModelConfig, tune: TuneConfig, length: int, *, checkpointing: bool = False, head_loss: HeadLoss
) -> float:
    """Operations of a forward and a backward pass over a sequence of so many tokens."""

    def measure(model: Any) -> Sequence[float]:
        counter = _counter()
        with _trainable(config, tune, model, head_loss) as called, _checkpointed(called, checkpointing), counter:
            called(_batch(called.model, [length])).backward()
        return [counter.get_total_flops()]

    return over_depth(config, measure)[0]


@contextmanager
def _trainable(
    config: ModelConfig, tune: TuneConfig, model: Any, head_loss: HeadLoss, mesh: Any = None
) -> Iterator[Any]:
    """The module that a training calls, of fake tensors; sharded over a mesh if there is one."""
    computed, layers = computed_dtype(config), layers_of(model)
    masters = needs_masters(tune, computed)
    model = make_trainable(model, tune)
    if masters:
        make_masters(model)
    plain = HeadLoss.chunked if head_loss in (HeadLoss.auto, HeadLoss.liger) else head_loss
    with FakeTensorMode(allow_non_fake_inputs=True):
        fill(model)
        called = LossOfModel(model, pick_head_loss(plain, _CPU))
        if mesh is not None:
            _shard(called, layers, mesh, computed if masters else None)
        elif masters:
            compute_in(called, layers, computed)
        yield called


def _checkpointed(called: Any, enabled: bool) -> AbstractContextManager[None]:
    return checkpointed_activations(called.model, enabled=enabled)


def _batch(model: Any, lengths: Sequence[int]) -> MicroBatch:
    return collate([Example(ids=(1,) * n, num_prompt=1) for n in _several(model, lengths)])


def _several(model: Any, lengths: Sequence[int]) -> Sequence[int]:
    """A single text is cut in two: without values, transformers does not see that it needs no mask."""
    cut = len(lengths) == 1 and lengths[0] > 1 and packing_obstacle(split_head(model).decoder) is None
    return [lengths[0] - 1, 1] if cut else lengths


def _shard(called: torch.nn.Module, layers: Sequence[torch.nn.Module], mesh: Any, computed: torch.dtype | None) -> None:
    """As `training.sharing.Sharded` does, without loading."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)
    for module in (*layers, called):
        fully_shard(module, mesh=mesh, mp_policy=policy)


def reading_pass(config: ModelConfig, lengths: Sequence[int], tune: TuneConfig | None = None) -> tuple[Usage, float]:
    """Memory and operations of reading packed texts for the log-probabilities of their tokens.

    Args:
        config: The model.
        lengths: Tokens of the texts.
        tune: How the model was tuned, if an adapter is on top.
    """

    def measure(model: Any) -> Sequence[float]:
        model = (model if tune is None else make_trainable(model, tune)).eval()
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            fill(model)
            memory, counter = _Memory(), _counter()
            memory.track_external(model)
            with memory, counter:
                weights = memory.bytes_of("Total")
                split = split_head(model)
                states = packed_states(split.decoder, pack([[1] * n for n in _several(model, lengths)]))
            head: Any = split.head
            logits = min(_LOGITS_AT_ONCE, sum(lengths) * head.weight.shape[0]) * _LOGIT_BYTES
            working = max(memory.bytes_of("Total", "peak") - weights, 2 * states.nbytes + logits)
            return weights, working, counter.get_total_flops() + 2 * sum(lengths) * head.weight.numel()

    weights, working, flops = over_depth(config, measure)
    return Usage(weights=weights, activations=working), flops


def writing_pass(config: ModelConfig, prompt_tokens: int, answer_tokens: int) -> Writing:
    """Memory and operations of writing answers up to their last token."""
    prompts = [(row, *(1,) * (prompt_tokens - 1)) for row in range(_ROWS)]

    def measure(model: Any) -> Sequence[float]:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            fill(model.eval())
            memory, reading, step = _Memory(), _counter(), _counter()
            memory.track_external(model)
            with memory:
                weights = memory.bytes_of("Total")
                with reading:
                    prompts_read = PromptReader(model, prompts).read(prompts)
                cache = RowCache(_ROWS, _CPU)
                for prompt in prompts:
                    cache.add(prompts_read[prompt].parts)
                held = sum(x.nbytes for layer in prompts_read[prompts[0]].parts[0] for x in layer)
                del prompts_read
                while (left := prompt_tokens + answer_tokens - 2 - cache.lengths[0]) > 0:
                    cache.step()
                    cache.advance(min(cache.room, left))
                mask, position = cache.step()
                with step:
                    ids = torch.ones(_ROWS, 1, dtype=torch.long)
                    next_logits(model, ids, mask, position, cache.past)
            peak = memory.bytes_of("Total", "peak") - weights
            per_row = (peak, reading.get_total_flops(), step.get_total_flops())
            return weights, held / prompt_tokens, *(value / _ROWS for value in per_row)

    weights, cache_bytes, row, prompt_flops, token_flops = over_depth(config, measure)
    return Writing(weights=weights, row=row, cache=cache_bytes, prompt_flops=prompt_flops, token_flops=token_flops)
