"""Loading of causal language models and tokenizers with `from_pretrained`, and their split into body and head."""

import copy
import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cotpress.devices.memory import keep_freed_memory
from cotpress.errors import ConfigError, MissingExtraError, ModelError
from cotpress.modeling import sources
from cotpress.modeling.config import Attention, Dtype, ModelConfig, ModelSource
from cotpress.modeling.foreign import reading
from cotpress.modeling.tiny import tiny_identity, tiny_model
from cotpress.store.artifacts import ArtifactStore, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HEAD_SCALES = {
    "final_logit_softcapping": (None,),
    "logits_scaling": (None, 1.0),
    "logit_scale": (None, 1.0),
    "lm_head_multiplier": (None, 1.0),
}


def load_tokenizer(config: ModelConfig, store: ArtifactStore) -> "PreTrainedTokenizerBase":
    """Load the fast tokenizer of a model.

    Raises:
        ModelError: The model cannot be found, or it has no fast tokenizer.
    """
    from transformers import AutoTokenizer

    folder = _directory(config, store, weights=False)  # the weights may be on a server only
    with reading(f"model '{config.path}': no tokenizer can be loaded from {folder}"), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    if not tokenizer.is_fast:
        raise ModelError(f"model '{config.path}': its tokenizer gives no character offsets (not a fast tokenizer)")
    return without_limits(tokenizer)


def load_model(
    config: ModelConfig,
    store: ArtifactStore,
    *,
    adapter: Path | str | None = None,
    merge_adapter: bool = False,
    split: bool = False,
    device: torch.device | str = "cpu",
) -> "PreTrainedModel":
    """Load a causal language model in eval mode.

    Args:
        config: The model and its number format.
        store: Store of converted and generated models.
        adapter: Directory or hub id of a PEFT adapter to load on top.
        merge_adapter: Fold the adapter into the weights (faster forward passes; rounds to the model's dtype).
        split: Check that body and head (`split_head`) give the model's logits; as the result depends on the
            architecture only, one of several workers may check for all.
        device: Device of the weights.

    Raises:
        ModelError: The model or adapter cannot be found or loaded, or cannot be split as requested.
        ConfigError: `model.attention` does not work on the device or in the number format.
        MissingExtraError: `model.attention` needs a package that is not installed.
    """
    from transformers import AutoModelForCausalLM

    _check_attention(config, device)
    keep_freed_memory()
    folder = _directory(config, store)
    how = f"model.attention={config.attention.value}, model.dtype={config.dtype.value}"
    with reading(f"model '{config.path}' cannot be loaded from {folder} ({how})"), quiet_transformers():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=resolve_dtype(config.dtype, device),
            attn_implementation=config.attention.value,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):  # transformers would use random numbers in their place
        raise ModelError(
            f"model '{config.path}': {len(missing)} of its weights are not in {folder}, e.g. {missing[0]}. "
            "Fix: fetch it again, or save it anew with model.save_pretrained(DIR)"
        )
    if adapter is not None:
        model = _with_adapter(model, str(adapter), merge=merge_adapter)
    model.to(device)
    model.eval()
    if split:
        _check_split(model)
    loaded: PreTrainedModel = model
    return loaded


def model_identity(config: ModelConfig, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Identity of a model's weights and results: the content of its source, and its dtype; raises `ModelError`."""
    source: dict[str, Any]
    match config.source:
        case ModelSource.hub:
            source = sources.source_identity(config.path, config.revision, trust_remote_code=config.trust_remote_code)
        case ModelSource.package:
            source = sources.packaged_identity(config.path)
        case ModelSource.tiny:
            source = tiny_identity()
    return {**source, "dtype": str(resolve_dtype(config.dtype, device)).removeprefix("torch.")}


def has_dropout(config: ModelConfig, store: ArtifactStore) -> bool:
    """True if the settings of a model switch dropout on in training, as those of GPT-2 do."""
    settings = json.loads((_directory(config, store, weights=False) / "config.json").read_text(encoding="utf-8"))
    return any("drop" in name and isinstance(value, int | float) and value > 0 for name, value in settings.items())


def without_limits(tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedTokenizerBase":
    """Remove stored truncation and padding from a fast tokenizer, and return it.

    The first call of a tokenizer removes them anyway. Until then they would be part of the fingerprint, which must not
    depend on earlier calls.
    """
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash of a fast tokenizer: 16 hex digits, equal for tokenizers that split all texts alike."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:16]


def prompt_identity(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str]:
    """Everything about a tokenizer that determines a prompt: its tokens and its chat template."""
    template = fingerprint({"template": tokenizer.chat_template})
    return {"tokenizer": tokenizer_fingerprint(tokenizer), "template": template}


def resolve_dtype(dtype: Dtype, device: torch.device | str) -> torch.dtype:
    """Number format of the loaded weights; `auto` is bfloat16 only where the processor computes in it."""
    if dtype is not Dtype.auto:
        return torch.bfloat16 if dtype is Dtype.bfloat16 else torch.float32
    if torch.device(device).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.bfloat16 if native else torch.float32


def _check_attention(config: ModelConfig, device: torch.device | str) -> None:
    """Refuse an attention implementation that the device does not support."""
    if config.attention is not Attention.flash_attention_2:
        return
    if importlib.util.find_spec("flash_attn") is None:
        raise MissingExtraError(
            "model.attention=flash_attention_2",
            "flash-attn",
            "pip install flash-attn --no-build-isolation (needs a GPU and nvcc), or model.attention=sdpa",
        )
    dtype = resolve_dtype(config.dtype, device)
    if torch.device(device).type != "cuda" or dtype is not torch.bfloat16:
        raise ConfigError(
            f"model.attention: got flash_attention_2 on {device} in {str(dtype).removeprefix('torch.')}, allowed: on a "
            "GPU in bfloat16. Fix: model.attention=sdpa, or trainer=gpu model.dtype=bfloat16"
        )


def cache_argument(cache: object) -> dict[str, Any]:
    """Keyword argument of a forward pass with a key-value cache, whose name changed in transformers 5.24."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    return {"cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values": cache}


class SplitModel(NamedTuple):
    """A causal language model as body and head, so that logits are computed only for selected positions."""

    decoder: torch.nn.Module
    """Maps token ids `[B, L]` to an output with `last_hidden_state` `[B, L, D]`."""
    head: torch.nn.Module
    """Maps hidden states `[..., D]` to logits `[..., V]`."""


def split_head(model: torch.nn.Module) -> SplitModel:
    """Split a causal language model into body and head, also inside a PEFT wrapper (adapters stay active in both).

    Raises:
        ModelError: The architecture does more than a linear map after its last hidden state.
    """
    base = _unwrapped(model)
    head = base.get_output_embeddings()
    # Gemma 2 caps its logits, Granite, Cohere and Falcon-H1 scale them, which a plain head would leave out.
    # Multimodal models have these settings in the configuration of their text part.
    configs = (base.config, base.config.get_text_config())
    odd = [k for k, neutral in _HEAD_SCALES.items() if any(getattr(c, k, None) not in neutral for c in configs)]
    if head is None or odd:
        raise ModelError(f"{type(base).__name__} has no plain linear head ({', '.join(odd) or 'no head'})")
    return SplitModel(decoder=base.get_decoder(), head=head)


@torch.no_grad()  # not inference mode: a tensor that a layer keeps could not be used in training
def _check_split(model: torch.nn.Module) -> None:
    """Check with two forward passes over four tokens that body and head of a model in eval mode give its logits.

    An architecture may change its logits without a known setting.
    """
    split, ids = split_head(model), torch.arange(4, device=next(model.parameters()).device)[None]
    whole = model(input_ids=ids, use_cache=False).logits
    parts = split.head(split.decoder(input_ids=ids, use_cache=False).last_hidden_state)
    # Some kernels round differently from call to call; a scale or a cap changes more than the last bits of a logit.
    allowed = max(1e-3, 4 * torch.finfo(whole.dtype).eps) * float(whole.abs().max())
    difference = float((whole.float() - parts.float()).abs().max())
    if difference > allowed:  # False for NaN, which training and scoring report themselves
        raise ModelError(
            f"{type(_unwrapped(model)).__name__} does more than a linear map after its last hidden state: its logits "
            f"differ by up to {difference:.3g} from those of its head, so every probability would be wrong. "
            "Fix: choose a model of another architecture"
        )


def _unwrapped(model: Any) -> Any:
    """The causal language model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def compiled(model: "PreTrainedModel") -> "PreTrainedModel":
    """Copy a model with shared weights, with a body that is compiled in its first pass, for texts of any length."""
    twin, body = copy.copy(model), copy.copy(model.base_model)
    twin._modules = {**model._modules, model.base_model_prefix: body}
    body.compile(dynamic=True)
    return twin


def _directory(config: ModelConfig, store: ArtifactStore, *, weights: bool = True) -> Path:
    """Local folder with the files of a model; made if the model is converted or generated."""
    if config.source is ModelSource.hub:
        trusted = config.trust_remote_code
        return sources.model_directory(config.path, config.revision, trust_remote_code=trusted, weights=weights)
    with quiet_transformers():
        made = tiny_model(store) if config.source is ModelSource.tiny else sources.packaged_model(config.path, store)
        return made.path


def _with_adapter(model: "PreTrainedModel", adapter: str, *, merge: bool) -> Any:
    from peft import PeftModel

    folder = sources.adapter_directory(adapter)
    what = f"adapter '{adapter}' does not load onto {type(model).__name__}"
    with reading(what, "give the model that it was trained on"), warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5 renamed; the old name still works.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        warnings.filterwarnings("error", message="Found missing adapter keys")  # PEFT only warns of them
        wrapped = PeftModel.from_pretrained(model, folder, use_safetensors=True)
    return wrapped.merge_and_unload() if merge else wrapped


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars inside."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
