"""Architectures, from the settings of a model and before its weights are loaded: which are refused, which keep a state.

A layer of attention remembers every token by its keys and values, which can be cut, moved and masked. Layers of linear
attention, convolutions and Mamba sum up what they read in a state of fixed size, which cannot. Texts of models with
such layers are therefore read, trained and written one by one.
"""

from pathlib import Path
from typing import Any

from cotpress.errors import ModelError
from cotpress.modeling.foreign import check_model, reading, settings_of

_CACHED = {"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"}
"""Kinds of transformers' cache for layers of attention, and for layers that use the cache of another layer."""


def causal_architecture(
    folder: Path, named: str, *, trust_remote_code: bool, key: str = "model.path"
) -> tuple[Any, Any]:
    """The class of the causal language model in a folder, None for one with code of its own, and its configuration.

    `key` is the setting of its path, for messages.

    Raises:
        ModelError: It has no settings, is an encoder, has one, or is none that transformers knows.
    """
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    check_model(folder, named, key)
    with reading(f"{key}: '{named}': its config.json in {folder} cannot be read"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    known, masked = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    kind, own_code = str(config.model_type), trust_remote_code and hasattr(config, "auto_map")
    kinds = [known.get(type(part), None) for part in (config, config.get_text_config())]
    if own_code:
        return None, config
    if getattr(config, "is_encoder_decoder", False):
        problem = "an encoder with a decoder"
    elif (kind in masked or kind == "bert-generation") and not getattr(config, "is_decoder", False):
        problem = "an encoder, which reads every token with those after it"
    elif kinds == [None, None]:
        problem = "no causal language model"
    else:
        return kinds[0] or kinds[1], config
    raise ModelError(
        f"{key}: '{named}' ({kind}) is {problem}. Allowed: models that predict every token from those before it, "
        f"such as Llama or Qwen. Fix: another {key}; a token classifier is scorer=tokenskip scorer.path=DIR"
    )


def embedding_rows(folder: Path, named: str, key: str = "model.path") -> int | None:
    """Number of token ids that the model in a folder knows; None without a `config.json`, or one that does not say."""
    settings = settings_of(folder, named, key)
    inner = settings.get("text_config")
    rows = (inner if isinstance(inner, dict) else settings).get("vocab_size", settings.get("vocab_size"))
    return rows if isinstance(rows, int) else None


def keeps_state(model: Any, config: Any) -> bool:
    """True if a model, or a class of models with this configuration, has layers with a state instead of a cache."""
    from transformers import DynamicCache

    if getattr(model, "_is_stateful", False):
        return True
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, KeyError, TypeError, ValueError):  # a kind of layer that transformers has no cache for
        return True
    return not {type(layer).__name__ for layer in layers} <= _CACHED
