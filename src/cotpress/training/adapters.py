"""What is trained, and the folder that comes out: a plain PEFT adapter, or a safetensors model."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cotpress.training.config import Method, TuneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER = "adapter"
MODEL = "model"


def make_trainable(model: torch.nn.Module, tune: TuneConfig) -> torch.nn.Module:
    """The model in training mode, with exactly the parameters that `tune.method` trains requiring gradients.

    LoRA matrices are drawn from `tune.seed`, whatever was drawn before.
    """
    if tune.method is Method.full:
        model.requires_grad_(True)
        return model.train()
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=tune.lora_rank,
        lora_alpha=tune.lora_alpha,
        lora_dropout=tune.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped: Any
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5 renamed; the old name still works.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        torch.manual_seed(tune.seed)
        wrapped = get_peft_model(model, config)
    trainable: torch.nn.Module = wrapped.train()
    return trainable


def export(
    model: torch.nn.Module, tokenizer: "PreTrainedTokenizerBase", tune: TuneConfig, folder: Path, base: str
) -> Path:
    """Write the result below `folder` and return where: `adapter/` (LoRA) or `model/` (full).

    Args:
        model: What `make_trainable` returned, trained.
        tokenizer: Saved beside a full model, so that its folder stands alone.
        tune: How it was trained.
        folder: Where the artifact's files go.
        base: Name of the base model that the adapter refers to; never a local temporary folder.
    """
    saved: Any = model
    if tune.method is Method.full:
        saved.save_pretrained(folder / MODEL)
        tokenizer.save_pretrained(folder / MODEL)
        return folder / MODEL
    target = folder / ADAPTER
    saved.save_pretrained(target, save_embedding_layers=False)
    (target / "README.md").unlink(missing_ok=True)  # an empty model card
    path = target / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # PEFT writes a set of names; sorted, equal adapters are equal files.
    config |= {"base_model_name_or_path": base, "target_modules": sorted(config["target_modules"])}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return target
