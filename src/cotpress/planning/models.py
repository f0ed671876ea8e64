"""Models without weights, built with transformers from their configuration, and cut to fewer layers for measuring."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cotpress.errors import ModelError
from cotpress.modeling.config import Attention, Dtype, ModelConfig, ModelSource
from cotpress.modeling.sources import config_file
from cotpress.modeling.tiny import tiny_identity
from cotpress.training.sharing import layers_of


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
        sizes = {k: v for k, v in tiny_identity()["tiny"].items() if k not in ("seed", "words", "template")}
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
    """The numbers that `measure` gives for a model, which it may change.

    Where the kinds of layers repeat, two models of a few layers are measured, one with a repetition more than the
    other, and each further repetition adds the difference.

    Args:
        config: The model.
        measure: From a model without weights to numbers.
        few: Least layers of the shorter model.

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
