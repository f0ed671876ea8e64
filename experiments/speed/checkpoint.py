"""The model that all sides read: one folder that transformers 4.47 and 5 understand alike."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cotpress.modeling.config import Dtype, ModelConfig
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.store.artifacts import ArtifactStore

LONGEST_CONTEXT = 16384
"""Positions that the written config allows: RoPE goes on past the trained context, and only time matters here."""


def write_checkpoint(config: ModelConfig, store: ArtifactStore, folder: Path) -> Path:
    """The model as float32 safetensors with its tokenizer, in `folder`; left alone if it is there already.

    Transformers 5 writes what 4.47 misreads: `rope_parameters` would be ignored there, and RoPE turn with another base.
    Both read the older names.

    Raises:
        ModelError: The model cannot be loaded.
    """
    if (folder / "ready").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    load_model(replace(config, dtype=Dtype.float32), store).save_pretrained(folder)
    load_tokenizer(config, store).save_pretrained(folder)
    _edit(folder / "config.json", _older_config)
    _edit(folder / "tokenizer_config.json", _older_tokenizer)
    (folder / "ready").touch()
    return folder


def _edit(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _older_config(config: dict[str, object]) -> None:
    rope = config.pop("rope_parameters", None)
    if isinstance(rope, dict):
        config["rope_theta"] = rope.pop("rope_theta")
        scaled = rope.get("rope_type", "default") != "default"
        config["rope_scaling"] = rope if scaled else None
    config["torch_dtype"] = config.pop("dtype", "float32")
    positions = config.get("max_position_embeddings", 0)
    assert isinstance(positions, int)
    config["max_position_embeddings"] = max(positions, LONGEST_CONTEXT)


def _older_tokenizer(tokenizer: dict[str, object]) -> None:
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("backend", "is_local", "local_files_only"):
        tokenizer.pop(name, None)
