"""Where the shape of a configured model comes from: a table for the presets, else `config.json`; never the weights."""

import json

from cotpress.errors import ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.sources import config_file
from cotpress.modeling.tiny import tiny_identity
from cotpress.planning.shape import ModelShape, shape_from_config


def _qwen(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int) -> ModelShape:
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        vocab_size=152064,
        qkv_bias=True,
    )


PUBLISHED = {
    "Qwen/Qwen2.5-7B-Instruct": _qwen(28, 3584, 18944, 28, 4),
    "Qwen/Qwen2.5-14B-Instruct": _qwen(48, 5120, 13824, 40, 8),
    "Qwen/Qwen2.5-32B-Instruct": _qwen(64, 5120, 27648, 40, 8),
    "Qwen/Qwen2.5-72B-Instruct": _qwen(80, 8192, 29568, 64, 8),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape(
        num_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=128256,
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelShape(
        num_layers=30,
        hidden_size=576,
        intermediate_size=1536,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        vocab_size=49152,
        tied_embeddings=True,
    ),
}
"""The `config.json` of the presets on the hub, so that planning for them needs no network."""


def shape_of(config: ModelConfig) -> ModelShape:
    """The shape of a configured model; reads its `config.json` if it is no preset.

    Raises:
        ModelError: It cannot be found, or it is of a family that is not known here.
    """
    if config.source is ModelSource.tiny:
        return shape_from_config({"model_type": "llama", **tiny_identity()["tiny"]}, config.name)
    known = PUBLISHED.get(config.hub_id or config.path)
    if known is not None:
        return known
    if config.source is ModelSource.package:
        raise ModelError(
            f"plan=true: the weights that the package '{config.path}' carries do not tell their shape without being "
            f"read. Fix: model.hub_id=ID, allowed: {', '.join(PUBLISHED)}"
        )
    path = config_file(config.path, config.revision)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model '{config.path}': {path} cannot be read: {error}. Fix: give model.path=DIR") from error
    if not isinstance(content, dict):
        raise ModelError(f"model '{config.path}': {path} is no JSON object. Fix: give model.path=DIR")
    return shape_from_config(content, config.path)
