"""Trainable models and how they are saved: LoRA adapters as PEFT folders, full fine-tunes as safetensors folders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.loading import quiet_transformers
from cotpress.modeling.weights import ADAPTER, MODEL
from cotpress.training.config import Method, TuneConfig
from cotpress.training.sharing import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def make_trainable(model: Any, config: TuneConfig) -> Any:
    """Put the model in train mode with the parameters of the method trainable, and only those; none is an error."""
    if config.method is Method.none:
        raise ConfigError("method none trains nothing; allowed here: lora, full")
    if config.method is Method.full:
        model.requires_grad_(True)
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


def save_trained(
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    config: TuneConfig,
    base_path: str,
    folder: Path,
    *,
    weights: Weights | None = None,
) -> None:
    """Write the weights of a model of `make_trainable` below `folder`, full weights with the tokenizer.

    An adapter notes `base_path`, the hub id or name of its base model. `weights` are the trained weights by their names
    in `model`, where the model itself holds only shards.
    """
    path = folder / (ADAPTER if config.method is Method.lora else MODEL)
    if config.method is Method.lora:
        model.peft_config["default"].base_model_name_or_path = base_path
        # Embeddings are never trained here; without this argument PEFT would look for the base model on the hub.
        model.save_pretrained(path, safe_serialization=True, save_embedding_layers=False, state_dict=weights)
        (path / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        settings = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        settings["target_modules"].sort()  # PEFT writes them in the order of their hashes
        (path / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return
    with quiet_transformers():
        model.save_pretrained(path, safe_serialization=True, state_dict=weights)
    if weights is not None:  # transformers notes the format of the weights in `model`, which may be float32 masters
        model.config.dtype = next(w.dtype for w in weights.values() if w.is_floating_point())
        model.config.save_pretrained(path)
    tokenizer.save_pretrained(path)
