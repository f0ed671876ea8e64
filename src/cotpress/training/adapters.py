"""Trainable models and how they are saved: LoRA adapters as PEFT folders, full fine-tunes as safetensors folders."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cotpress.errors import ConfigError
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.loading import quiet_transformers
from cotpress.modeling.weights import ADAPTER, MODEL
from cotpress.training.config import Method, TuneConfig
from cotpress.training.sharing import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def make_trainable(model: Any, config: TuneConfig) -> Any:
    """Put the model in train mode with the parameters of the method trainable, and only those.

    Raises:
        ConfigError: The method trains nothing.
    """
    match config.method:
        case Method.lora:
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(config.seed)  # for the initial matrices of the adapter
            wrapped = get_peft_model(
                model,
                LoraConfig(
                    r=config.lora_rank,
                    lora_alpha=config.lora_alpha,
                    lora_dropout=config.lora_dropout,
                    target_modules="all-linear",
                    task_type="CAUSAL_LM",
                ),
            )
        case Method.full:
            wrapped = model.requires_grad_(True)
        case Method.none:
            raise ConfigError("method none trains nothing; allowed here: lora, full")
    wrapped.train()
    return wrapped


@contextmanager
def checkpointed_activations(model: Any, *, enabled: bool) -> Iterator[None]:
    """Let layers keep only their input in training, and run again for the gradient with the same dropout masks.

    Raises:
        ConfigError: The architecture does not support it.
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
    """Write the trained weights below `folder`.

    Args:
        model: Result of `make_trainable`.
        tokenizer: Saved beside full weights.
        config: Selects adapter or full weights.
        base_path: Hub id or name of the base model, noted in the adapter.
        folder: The artifact's folder.
        weights: The trained weights by their names in `model`, where the model itself holds only shards.
    """
    given: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    if config.method is Method.lora:
        model.peft_config["default"].base_model_name_or_path = base_path
        # Embeddings are never trained here; without this argument PEFT would look for the base model on the hub.
        model.save_pretrained(folder / ADAPTER, safe_serialization=True, save_embedding_layers=False, **given)
        (folder / ADAPTER / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        _sort_targets(folder / ADAPTER / ADAPTER_CONFIG)
        return
    with quiet_transformers():
        model.save_pretrained(folder / MODEL, safe_serialization=True, **given)
    if weights is not None:  # transformers notes the format of the weights in `model`, which may be float32 masters
        model.config.dtype = next(w.dtype for w in weights.values() if w.is_floating_point())
        model.config.save_pretrained(folder / MODEL)
    tokenizer.save_pretrained(folder / MODEL)


def _sort_targets(path: Path) -> None:
    """Sort the module names, which PEFT writes in the order of their hashes, so that equal adapters are equal files."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
