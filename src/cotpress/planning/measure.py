"""Memory and arithmetic of the code that trains, scores and writes, run on tensors without values.

Models are built with transformers from their configuration. torch's fake tensors have shapes and formats but no memory,
so that a model of any size runs on one CPU core in seconds. torch's `MemTracker` counts the bytes that are alive, and
its `FlopCounterMode` the operations. Sharding runs under a process group that does not communicate.

Not measured: the logits of scoring on a GPU, whose chunks are larger than on a CPU (`_LOGITS_AT_ONCE`); kernels that
need a GPU (flash attention, Liger), for which sdpa and the chunked loss stand in; workspaces inside of kernels.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed._tools.mod_tracker import ModTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from cotpress.devices.config import HeadLoss
from cotpress.errors import ModelError
from cotpress.generation.hf import next_logits, read_prompts, writes_alone
from cotpress.generation.row_cache import RowCache
from cotpress.modeling.config import Attention, Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import split_head
from cotpress.modeling.packing import pack, packed_inputs, packing_obstacle
from cotpress.modeling.sources import config_file
from cotpress.modeling.tiny import SHAPE, VOCAB_SIZE
from cotpress.training.adapters import checkpointed_activations, make_trainable
from cotpress.training.batching import Example, MicroBatch, collate
from cotpress.training.config import TuneConfig
from cotpress.training.head_loss import pick_head_loss
from cotpress.training.module import LossOfModel
from cotpress.training.sharing import OneDevice, layers_of, of_masters

_LOGITS_AT_ONCE, _LOGIT_BYTES = 2**27, 10
"""Logits in memory at once on a GPU (`modeling.head`), and bytes of each: in bfloat16, in float32, and a copy."""
_ROWS = 2
"""Answers that are written when writing is measured; every further one takes as much."""
_CPU = torch.device("cpu")


def _decoder(kind: str, layers: int, hidden: int, inner: int, heads: int, kv_heads: int, words: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": words,
        "tie_word_embeddings": False,
    }


PRESETS = {
    "Qwen/Qwen2.5-7B-Instruct": _decoder("qwen2", 28, 3584, 18944, 28, 4, 152064),
    "Qwen/Qwen2.5-14B-Instruct": _decoder("qwen2", 48, 5120, 13824, 40, 8, 152064),
    "Qwen/Qwen2.5-32B-Instruct": _decoder("qwen2", 64, 5120, 27648, 40, 8, 152064),
    "Qwen/Qwen2.5-72B-Instruct": _decoder("qwen2", 80, 8192, 29568, 64, 8, 152064),
    "meta-llama/Llama-3.1-8B-Instruct": _decoder("llama", 32, 4096, 14336, 32, 8, 128256),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _decoder("llama", 30, 576, 1536, 9, 3, 49152)
    | {"tie_word_embeddings": True},
}
"""The sizes in the `config.json` of the presets on the hub, so that a plan for them needs no network."""


class Usage(NamedTuple):
    """Memory of one device at its peak, in bytes."""

    weights: float
    """Model and adapter; float32 masters where all weights are trained."""
    gradients: float = 0
    optimizer: float = 0
    """AdamW's moments."""
    activations: float = 0
    """Everything else that is alive at the peak: activations, logits, temporary tensors, and with fsdp2 weights and
    gradients on their way between devices. In writing it is the cache of keys and values."""

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(self)


class Writing(NamedTuple):
    """Memory of writing answers with a model, in bytes, and its operations."""

    weights: float
    row: float
    """Memory for each answer that is written at the same time."""
    cache: float
    """Keys and values of one token."""
    prompt_flops: float
    token_flops: float
    """Operations of one more token of an answer, with the whole answer before it."""


def computed_dtype(model: ModelConfig) -> torch.dtype:
    """Format of weights and activations on a GPU, where `auto` is bfloat16."""
    return torch.float32 if model.dtype is Dtype.float32 else torch.bfloat16


def empty_model(config: ModelConfig) -> Any:
    """A causal language model on the meta device; reads a `config.json` if the model is no preset.

    Raises:
        ModelError: There is no `config.json`, or transformers cannot build a model from it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    known = PRESETS.get(config.hub_id or config.path)
    if config.source is ModelSource.tiny:
        sizes = {**SHAPE, "vocab_size": VOCAB_SIZE}
        known = {"model_type": "llama", **sizes}
    if known is None and config.source is ModelSource.package:
        raise ModelError(
            f"plan=true: the sizes of the model in the package '{config.path}' are not known without reading its "
            f"weights. Fix: model.hub_id=ID, allowed: {', '.join(PRESETS)}"
        )
    folder = None if known is not None else config_file(config.path, config.revision).parent
    trusted = config.trust_remote_code
    # Kernels that need a GPU keep what scaled dot-product attention keeps.
    attention = Attention.eager if config.attention is Attention.eager else Attention.sdpa
    try:
        if known is not None:
            settings = AutoConfig.for_model(**known)
        else:
            settings = AutoConfig.from_pretrained(folder, trust_remote_code=trusted, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                settings,
                dtype=computed_dtype(config),
                attn_implementation=attention.value,
                trust_remote_code=trusted,
            )
    except Exception as error:  # transformers raises what it likes
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"plan=true: no model can be built from the config.json of '{config.path}': {reason}. Fix: give the "
            "model.path of a causal language model that this version of transformers knows"
        ) from error


def over_depth(config: ModelConfig, measure: Callable[[Any], Sequence[float]], few: int = 2) -> list[float]:
    """The numbers that `measure` gives for a model without weights, which it may change.

    Where the kinds of layers repeat, two models are measured, one of at least `few` layers and one with a repetition
    more, and each further repetition adds the difference.

    Raises:
        ModelError: The model cannot be built, or its code cannot be run without values.
    """
    key = (repr(config), few)
    if key not in _built:
        _built[key] = _build(config, few)
    repetitions, models = _built[key]
    try:
        first, *more = (list(measure(copy.deepcopy(model))) for model in models)
    except ModelError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ModelError(
            f"plan=true: '{config.name}' cannot be planned, as its code does not run on tensors without values "
            f"({reason}). It may still train: start with a low trainer.tokens_per_batch"
        ) from error
    return [a + repetitions * (b - a) for a, b in zip(first, more[0], strict=True)] if more else first


_built: dict[tuple[str, int], tuple[int, list[Any]]] = {}
"""The models to measure of each configuration so far, and the repetitions that the first one lacks."""


def _build(config: ModelConfig, few: int) -> tuple[int, list[Any]]:
    model = empty_model(config)
    layers = layers_of(model)
    types = getattr(model.config.get_text_config(), "layer_types", None) or [""] * len(layers)
    shapes = [{name: p.shape for name, p in layer.named_parameters()} for layer in layers]
    kinds = [(type(layer), *kind) for layer, *kind in zip(layers, types, shapes, strict=True)]
    depth = len(kinds)
    period = next((n for n in range(1, depth) if depth % n == 0 and kinds == kinds[:n] * (depth // n)), depth)
    few = -(-few // max(period, 1)) * period
    if few + period >= depth:
        return 0, [model]
    return (depth - few) // period, [_cut(copy.deepcopy(model), n) for n in (few, few + period)]


def _cut(model: Any, num_layers: int) -> Any:
    """Leave out all layers but the first ones."""
    first = layers_of(model)[0]
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) > 0 and child[0] is first:
                setattr(module, name, child[:num_layers])
    return model


def fill(model: Any) -> None:
    """Replace what is on the meta device by tensors of the current mode; tied weights stay tied."""
    filled: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(old) not in filled:
                value = torch.full(old.shape, 0.01, dtype=old.dtype)
                filled[id(old)] = torch.nn.Parameter(value, requires_grad=old.requires_grad)
            module._parameters[name] = filled[id(old)]
        for name, old in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.ones(old.shape, dtype=old.dtype)


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
            aten._scaled_dot_product_flash_attention_for_cpu: (
                lambda q, k, v, *_, **__: counted.sdpa_flop_count(q, k, v)
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
        tune: Recipe of its training.
        lengths: Tokens of the packed sequences; all but the first token of each have a loss.
        head_loss: `trainer.head_loss`; `auto` and `liger` count as `chunked`.
        checkpointing: `trainer.activation_checkpointing`.
        devices: Number of devices over which fsdp2 shards the model.
    """

    def measure(model: Any) -> Sequence[float]:
        with _mesh(devices) as mesh, _trainable(config, tune, model, head_loss, checkpointing, mesh) as called:
            trained = [p for p in called.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, fused=True)
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # makes the moments
            memory = _Memory()
            memory.track_external(called, optimizer)
            with memory:
                weights = memory.bytes_of("Parameter") + memory.bytes_of("Buffer")
                states = (weights, memory.bytes_of("Gradient"), memory.bytes_of("Optstate"))
                called(_batch(called.model, lengths)).backward()
            return *states, memory.bytes_of("Total", "peak") - sum(states)

    few = 2 if devices == 1 else 3  # fsdp2 holds up to three layers
    return Usage(*over_depth(config, measure, few))


def training_flops(
    config: ModelConfig, tune: TuneConfig, length: int, *, checkpointing: bool = False, head_loss: HeadLoss
) -> float:
    """Operations of a forward and a backward pass over a sequence of so many tokens."""

    def measure(model: Any) -> Sequence[float]:
        counter = _counter()
        with _trainable(config, tune, model, head_loss, checkpointing) as called, counter:
            called(_batch(called.model, [length])).backward()
        return [counter.get_total_flops()]

    return over_depth(config, measure)[0]


@contextmanager
def _trainable(
    config: ModelConfig, tune: TuneConfig, model: Any, head_loss: HeadLoss, checkpointing: bool, mesh: Any = None
) -> Iterator[Any]:
    """The module that a training calls, of fake tensors; sharded over a mesh, as `training.sharing.Sharded` does."""
    computed = of_masters(computed_dtype(config))
    sharing = OneDevice(computed)
    model = sharing.load(_CPU, lambda _: make_trainable(model, tune))
    plain = HeadLoss.chunked if head_loss in (HeadLoss.auto, HeadLoss.liger) else head_loss
    with FakeTensorMode(allow_non_fake_inputs=True), checkpointed_activations(model, enabled=checkpointing):
        fill(model)
        called = LossOfModel(model, pick_head_loss(plain, _CPU))
        if mesh is None:
            sharing.ready(called)
        else:
            policy = MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32)
            for module in (*layers_of(model), called):
                fully_shard(module, mesh=mesh, mp_policy=policy)
        yield called


def _batch(model: Any, lengths: Sequence[int]) -> MicroBatch:
    return collate([Example(ids=(1,) * n, num_prompt=1) for n in _several(model, lengths)])


def _several(model: Any, lengths: Sequence[int]) -> Sequence[int]:
    """A single text is cut in two: without values, transformers does not see that it needs no mask."""
    cut = len(lengths) == 1 and lengths[0] > 1 and packing_obstacle(split_head(model).decoder) is None
    return [lengths[0] - 1, 1] if cut else lengths


def reading_pass(config: ModelConfig, lengths: Sequence[int]) -> tuple[Usage, float]:
    """Memory and operations of reading packed texts for the log-probabilities of their tokens.

    `lengths` are the tokens of the texts. An adapter needs nothing more, as it is merged into the weights.
    """

    def measure(model: Any) -> Sequence[float]:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            fill(model.eval())
            memory, counter = _Memory(), _counter()
            memory.track_external(model)
            with memory, counter:
                weights = memory.bytes_of("Total")
                split = split_head(model)
                packed = pack([[1] * n for n in _several(model, lengths)])
                states = split.decoder(**packed_inputs(split.decoder, packed)).last_hidden_state
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
        if writes_alone(model):
            raise ModelError(f"plan=true: '{config.name}' writes one answer after the other, which is not planned")
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            fill(model.eval())
            memory, reading, step = _Memory(), _counter(), _counter()
            memory.track_external(model)
            with memory:
                weights = memory.bytes_of("Total")
                with reading:
                    prompts_read = read_prompts(model, prompts)
                cache = RowCache(_ROWS, _CPU)
                for prompt in prompts:
                    cache.add(prompts_read[prompt].layers)
                held = sum(x.nbytes for layer in prompts_read[prompts[0]].layers for x in layer)
                del prompts_read
                while (left := prompt_tokens + answer_tokens - 2 - cache.lengths[0]) > 0:
                    cache.step()
                    cache.advance(min(cache.room, left))
                mask, position = cache.step()
                with step:
                    ids = torch.ones(_ROWS, 1, dtype=torch.long)
                    next_logits(model, ids, mask, position, cache.past)
            peak = memory.bytes_of("Total", "peak") - weights
            flops = (reading.get_total_flops() / _ROWS, step.get_total_flops() / _ROWS)
            return weights, peak / _ROWS, held / prompt_tokens, *flops

    return Writing(*over_depth(config, measure))
