"""Trainable models and how they are saved: LoRA adapters as PEFT folders, full fine-tunes as safetensors folders."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.loading import quiet_transformers
from cotpress.modeling.weights import ADAPTER, MODEL
from cotpress.training.config import Method, TuneConfig
from cotpress.training.sharing import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_trainable(model: Any, config: TuneConfig) -> Any:
    """Put the model in train mode with the parameters of the method trainable, and only those; none is an error.

    A LoRA adapter that the model already has is trained further.
    """
    if config.method is Method.none:
        raise ConfigError("method none trains nothing; allowed here: lora, full")
    if config.method is Method.full:
        model.requires_grad_(True)
    elif hasattr(model, "peft_config"):  # a start that is trained further
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(config.seed)  # for the initial matrices of the adapter
        adapter = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        try:
            model = get_peft_model(model, adapter)
        except ValueError as error:  # e.g. layers of Mamba, whose kernels read the weights themselves
            name = type(model).__name__
            raise ModelError(f"LoRA cannot adapt {name}: {error}. Fix: sft=full reference=full") from error
    model.train()
    return model


@contextmanager
def checkpointed_activations(model: Any, *, enabled: bool) -> Iterator[None]:
    """Let layers keep only their input in training, and run again for the gradient with the same dropout masks.

    An architecture that does not support it is a `ConfigError`.
    """
    if not enabled:
        yield
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    try:
        base.activation_checkpointing_enable()
    except ValueError as error:
        fix = "Fix: trainer.activation_checkpointing=false"
        raise ConfigError(f"trainer.activation_checkpointing: {error} {fix}") from error
    try:
        yield
    finally:
        base.activation_checkpointing_disable()


SHARD_BYTES = 5e9
"""Size of a file of a saved model, which is put together in main memory."""


def save_trained(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    config: TuneConfig,
    base_path: str,
    folder: Path,
    *,
    weights: Iterable[Weights] | None = None,
) -> None:
    """Write the weights of a model of `make_trainable` below `folder`, full weights with the tokenizer.

    An adapter notes `base_path`, the hub id or name of its base model. `weights` are the trained weights by their names
    in `model`, in parts, where the model itself holds only shards.
    """
    path = folder / (ADAPTER if config.method is Method.lora else MODEL)
    if config.method is Method.lora:
        state = None if weights is None else {name: w for part in weights for name, w in part.items()}
        model.peft_config["default"].base_model_name_or_path = base_path
        # Embeddings are never trained here; without this argument PEFT would look for the base model on the hub.
        model.save_pretrained(path, safe_serialization=True, save_embedding_layers=False, state_dict=state)
        (path / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        settings = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        settings["target_modules"].sort()  # PEFT writes them in the order of their hashes
        (path / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return
    with quiet_transformers():
        if weights is None:
            model.save_pretrained(path, safe_serialization=True, max_shard_size=int(SHARD_BYTES))
        else:
            _save_parts(model, weights, path)
    tokenizer.save_pretrained(path)


def _save_parts(model: Any, parts: Iterable[Weights], path: Path) -> None:
    """Write a model whose weights come in parts as transformers' `save_pretrained` does, holding one file at a time."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    path.mkdir(parents=True, exist_ok=True)
    written: list[list[str]] = []
    held: Weights = {}
    total, dtype = 0, None

    def write() -> None:
        save_file(held, path / f"part-{len(written)}", metadata={"format": "pt"})
        written.append([*held])
        held.clear()

    for part in parts:
        dtype = dtype or next(w.dtype for w in part.values() if w.is_floating_point())
        for name, weight in revert_weight_conversion(model, part).items():  # back to the names of the hub
            size = weight.numel() * weight.element_size()
            if held and size + sum(w.numel() * w.element_size() for w in held.values()) > SHARD_BYTES:
                write()
            held[name] = weight.contiguous()
            total += size
    write()
    names = (
        [SAFE_WEIGHTS_NAME]
        if len(written) == 1
        else [f"model-{n:05d}-of-{len(written):05d}.safetensors" for n in range(1, len(written) + 1)]
    )
    for number, name in enumerate(names):
        (path / f"part-{number}").rename(path / name)
    if len(names) > 1:
        places = {weight: name for name, weights in zip(names, written, strict=True) for weight in weights}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (path / SAFE_WEIGHTS_INDEX_NAME).write_text(
            json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
    model.config.dtype = dtype  # that of the saved weights; the model may hold float32 masters
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
    model.config.save_pretrained(path)
    if model.can_generate():
        model.generation_config.save_pretrained(path)
