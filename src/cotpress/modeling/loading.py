"""Loading of causal language models and tokenizers with `from_pretrained`, and their split into body and head."""

import copy
import hashlib
import importlib.util
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cotpress.devices.launch import here
from cotpress.devices.memory import keep_freed_memory
from cotpress.errors import ConfigError, MissingExtraError, ModelError
from cotpress.modeling import sources
from cotpress.modeling.architecture import causal_architecture, embedding_rows
from cotpress.modeling.config import Attention, Dtype, ModelConfig, ModelSource
from cotpress.modeling.foreign import ADAPTER_CONFIG, check_base, reading
from cotpress.modeling.tiny import tiny_identity, tiny_model
from cotpress.store.artifacts import MANIFEST, ArtifactStore, fingerprint, plain
from cotpress.store.source import without_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HEAD_SCALES = {
    "final_logit_softcapping": (None,),
    "logits_soft_cap": (None,),
    "output_logit_soft_cap": (None,),
    "logits_scaling": (None, 1.0),
    "logit_scale": (None, 1.0),
    "lm_head_multiplier": (None, 1.0),
}


def load_tokenizer(config: ModelConfig, store: ArtifactStore, *, key: str = "model.path") -> "PreTrainedTokenizerBase":
    """Load the fast tokenizer of a model; messages blame the setting `key` of its path, here and below.

    Raises:
        ModelError: The model cannot be found, has no fast tokenizer, or does not know the tokens of its tokenizer.
    """
    from transformers import AutoTokenizer

    folder = model_folder(config, store, key=key, weights=False)  # the weights may be on a server only
    with reading(f"{key}: '{config.path}': no tokenizer can be loaded from {folder}"), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    return checked_tokenizer(tokenizer, embedding_rows(folder, config.path), config.path, key=key)


def checked_tokenizer(
    tokenizer: "PreTrainedTokenizerBase", num_rows: int | None, named: str, *, key: str
) -> "PreTrainedTokenizerBase":
    """Return a tokenizer without limits, for a model `named` so with `num_rows` embeddings.

    Raises:
        ModelError: It is no fast one, or the model does not know its tokens.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"{key}: '{named}': its tokenizer {type(tokenizer).__name__} gives no character offsets, as it "
            "is no fast one. Fix: put the tokenizer.json of a fast tokenizer into the folder, or choose another model"
        )
    _check_vocabulary(tokenizer, num_rows, named)
    return without_limits(tokenizer)


def _check_vocabulary(tokenizer: "PreTrainedTokenizerBase", num_rows: int | None, named: str) -> None:
    """Refuse a tokenizer with words or an end token that the model has no embedding for.

    Other added tokens may have none, such as Gemma's for images; texts that hold them are refused (`check_ids`).
    """
    if num_rows is None or len(tokenizer) <= num_rows:
        return
    added = tokenizer.get_added_vocab()
    beyond = {token: id_ for token, id_ in tokenizer.get_vocab().items() if id_ >= num_rows}
    wrong = sorted((id_, token) for token, id_ in beyond.items() if token not in added or token == tokenizer.eos_token)
    if wrong:
        raise ModelError(
            f"model '{named}': its tokenizer has {len(wrong)} tokens without an embedding, e.g. {wrong[0][1]!r} with "
            f"the id {wrong[0][0]}; the model knows the ids 0 to {num_rows - 1}. Fix: the tokenizer of this model, or "
            "model.resize_token_embeddings(len(tokenizer)) and training of the new rows"
        )


def end_ids(config: ModelConfig, store: ArtifactStore, *, key: str = "model.path") -> tuple[int, ...]:
    """Sorted ids of the tokens that end an answer: those of the generation settings, and the tokenizer's end token.

    No weights are loaded; raises `ModelError` as `load_tokenizer`.
    """
    folder = model_folder(config, store, key=key, weights=False)
    files = (folder / name for name in ("generation_config.json", "config.json"))
    settings = json.loads(next(file for file in files if file.is_file()).read_text(encoding="utf-8"))
    listed = settings.get("eos_token_id", settings.get("text_config", {}).get("eos_token_id"))
    ends = [*(listed if isinstance(listed, list) else [listed]), load_tokenizer(config, store, key=key).eos_token_id]
    return tuple(sorted({int(i) for i in ends if i is not None}))


def check_ids(model: torch.nn.Module, ids: Any, place: str) -> None:
    """Refuse token ids `[n]` that a model has no embedding for; on a GPU they would end the process."""
    num_rows = unwrapped(model).get_input_embeddings().weight.shape[0]
    largest = int(max(ids, default=0))
    if largest >= num_rows:
        raise ModelError(
            f"{place}: the token id {largest} has no embedding; {type(unwrapped(model)).__name__} knows the ids 0 to "
            f"{num_rows - 1}. Fix: remove the text of this special token, or give the tokenizer of this model"
        )


def load_model(
    config: ModelConfig,
    store: ArtifactStore,
    *,
    adapter: Path | str | None = None,
    merge_adapter: bool = False,
    split: bool = False,
    device: torch.device | str = "cpu",
    key: str = "model.path",
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
        key: Setting of the model's path, for messages.

    Raises:
        ModelError: The model or adapter cannot be found or loaded, or cannot be split as requested.
        ConfigError: `model.attention` does not work on the device or in the number format.
        MissingExtraError: `model.attention` needs a package that is not installed.
    """
    from transformers import AutoModelForCausalLM

    check_attention(config, device, key=key)
    keep_freed_memory()
    folder = model_folder(config, store, key=key)
    group = key.removesuffix(".path")
    how = f"{group}.attention={config.attention.value}, {group}.dtype={config.dtype.value}"
    _, architecture = causal_architecture(folder, config.path, trust_remote_code=config.trust_remote_code, key=key)
    with reading(f"{key}: '{config.path}' cannot be loaded from {folder} ({how})"), quiet_transformers():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=resolve_dtype(config.dtype, device),
            attn_implementation=config.attention.value,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **_dequantized(architecture),
        )
    if missing := sorted(info["missing_keys"]):  # transformers would use random numbers in their place
        raise ModelError(
            f"{key}: '{config.path}': {len(missing)} of its weights are not in {folder}, e.g. {missing[0]}. "
            "Fix: fetch it again, or save it anew with model.save_pretrained(DIR)"
        )
    if unused := sorted(info["unexpected_keys"]):  # transformers would leave them out
        raise ModelError(
            f"{key}: '{config.path}': {len(unused)} of the weights in {folder} have no place in {type(model).__name__} "
            f"as its config.json describes it, e.g. {unused[0]}. Fix: fetch config.json and weights of one model again"
        )
    if adapter is not None:
        model = _with_adapter(model, config, str(adapter), merge=merge_adapter)
    model.to(device)
    model.eval()
    check_finite(model, f"{key}: '{config.path}'" + ("" if adapter is None else f" with adapter '{adapter}'"))
    if split:
        check_split(model)
    loaded: PreTrainedModel = model
    return loaded


def _dequantized(architecture: Any) -> dict[str, Any]:
    """Arguments that load weights of 4 bits (gpt-oss) in the model's number format on every device.

    Without them the device and the installed kernels would decide, and quantized weights cannot be trained.
    """
    from transformers import Mxfp4Config

    settings = getattr(architecture, "quantization_config", None) or {}
    is_mxfp4 = isinstance(settings, dict) and settings.get("quant_method") == "mxfp4"
    return {"quantization_config": Mxfp4Config(dequantize=True)} if is_mxfp4 else {}


def architecture_of(config: ModelConfig, store: ArtifactStore, *, key: str = "model.path") -> tuple[Any, Any]:
    """See `causal_architecture`; no weights are loaded. Raises ModelError also if the model cannot be found."""
    folder = model_folder(config, store, key=key, weights=False)
    return causal_architecture(folder, config.path, trust_remote_code=config.trust_remote_code, key=key)


def check_architecture(config: ModelConfig, store: ArtifactStore, *, key: str = "model.path") -> None:
    """Refuse a model that is no causal language model or lacks `model.attention`; no weights are loaded.

    Raises:
        ModelError: It is refused, or cannot be found.
    """
    kind, _ = architecture_of(config, store, key=key)
    if config.attention is Attention.sdpa and kind is not None and not getattr(kind, "_supports_sdpa", False):
        setting = f"{key.removesuffix('.path')}.attention"
        raise ModelError(f"{setting}: got sdpa, which {kind.__name__} does not have. Fix: {setting}=eager")


def model_identity(
    config: ModelConfig, device: torch.device | str = "cpu", *, key: str = "model.path"
) -> dict[str, Any]:
    """Identity of a model's weights and results: the content of its source, and its dtype; raises `ModelError`."""
    source: dict[str, Any]
    match config.source:
        case ModelSource.hub:
            trusted = config.trust_remote_code
            sources.require_model(config.path, key=key)
            source = sources.source_identity(config.path, config.revision, trust_remote_code=trusted, key=key)
        case ModelSource.package:
            source = sources.packaged_identity(config.path, key=key)
        case ModelSource.tiny:
            source = tiny_identity()
    return {**source, "dtype": str(resolve_dtype(config.dtype, device)).removeprefix("torch.")}


def is_trained_on(weights: Path, config: ModelConfig) -> bool | None:
    """True if the weights in a folder of a training artifact were trained on a model of this content, else False.

    None if that is unknown: the weights have no manifest, or only one of the two models lies in a folder. The number
    format is no part of the content.
    """
    try:
        manifest = json.loads((weights.resolve().parent / MANIFEST).read_text(encoding="utf-8"))
        trained: dict[str, Any] = without_code(manifest["identity"]["model"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    own = without_code(plain(model_identity(config)))
    if "commit" in trained and trained["commit"] in (own.get("commit"), Path(config.path).name):  # a cached snapshot
        return True
    kinds = [{key for key in identity if key not in ("dtype", "version")} for identity in (trained, own)]
    if kinds[0] != kinds[1] or trained.get("hub") != own.get("hub"):
        return None
    return all(trained[key] == own[key] for key in kinds[0])


def has_dropout(config: ModelConfig, store: ArtifactStore) -> bool:
    """True if the settings of a model switch dropout on in training, as those of GPT-2 do."""
    settings = json.loads((model_folder(config, store, weights=False) / "config.json").read_text(encoding="utf-8"))
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


def check_attention(config: ModelConfig, device: torch.device | str, *, key: str = "model.path") -> None:
    """Refuse an attention implementation that the device does not support; `key` as for `load_model`."""
    setting = f"{key.removesuffix('.path')}.attention"
    if config.attention is not Attention.flash_attention_2:
        return
    if importlib.util.find_spec("flash_attn") is None:
        raise MissingExtraError(
            f"{setting}=flash_attention_2",
            "flash-attn",
            f"pip install flash-attn --no-build-isolation (needs a GPU and nvcc), or {setting}=sdpa",
        )
    dtype = resolve_dtype(config.dtype, device)
    if torch.device(device).type != "cuda" or dtype is not torch.bfloat16:
        raise ConfigError(
            f"{setting}: got flash_attention_2 on {device} in {str(dtype).removeprefix('torch.')}, allowed: on a "
            f"GPU in bfloat16. Fix: {setting}=sdpa, or trainer=gpu {key.removesuffix('.path')}.dtype=bfloat16"
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
    base = unwrapped(model)
    head = base.get_output_embeddings()
    # Gemma 2 caps its logits, Granite, Cohere and Falcon-H1 scale them, which a plain head would leave out.
    # Multimodal models have these settings in the configuration of their text part.
    configs = (base.config, base.config.get_text_config())
    odd = [k for k, neutral in _HEAD_SCALES.items() if any(getattr(c, k, None) not in neutral for c in configs)]
    decoder = base.get_decoder()
    if head is None or odd or decoder is base:
        why = ", ".join(odd) or ("no head" if head is None else "no body without its head")
        raise ModelError(
            f"{type(base).__name__} has no plain linear head ({why}). Fix: a model of another architecture"
        )
    return SplitModel(decoder=decoder, head=head)


@torch.no_grad()
def check_finite(model: torch.nn.Module, named: str) -> None:
    """Refuse weights that are NaN or infinite, with which every number is NaN or an arbitrary one."""
    for name, weight in model.named_parameters():
        if weight.is_meta or weight.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            continue
        if weight.numel() and not all(torch.isfinite(bound) for bound in weight.aminmax()):  # NaN is passed on
            raise ModelError(
                f"{named}: the weight {name} holds {int((~torch.isfinite(weight)).sum())} numbers that are NaN "
                "or infinite. Fix: fetch or train it again; a training may have diverged (lower its learning rate)"
            )


@torch.no_grad()  # not inference mode: a tensor that a layer keeps could not be used in training
def check_split(model: torch.nn.Module) -> None:
    """Check with three forward passes over four tokens that body and head of a model in eval mode give its logits, and
    that these depend on earlier tokens only.

    An architecture may change its logits, or read what follows, without a known setting.
    """
    split, ids = split_head(model), torch.arange(4, device=next(model.parameters()).device)[None]
    whole = model(input_ids=ids, use_cache=False).logits
    continued = model(input_ids=ids.where(ids < 2, ids + 2), use_cache=False).logits
    hidden = split.decoder(input_ids=ids, use_cache=False).last_hidden_state
    weight = next(split.head.parameters())
    if hidden.dtype != weight.dtype:
        raise ModelError(
            f"{type(unwrapped(model)).__name__} has hidden states in {hidden.dtype}, but its head in {weight.dtype}. "
            "Fix: model.dtype=float32"
        )
    parts = split.head(hidden)
    # Some kernels round differently from call to call; a scale or a cap changes more than the last bits of a logit.
    allowed = max(1e-3, 4 * torch.finfo(whole.dtype).eps) * float(whole.abs().max())
    difference = float((whole.float() - parts.float()).abs().max())
    if difference > allowed:  # False for NaN, which training and scoring report themselves
        raise ModelError(
            f"{type(unwrapped(model)).__name__} does more than a linear map after its last hidden state: its logits "
            f"differ by up to {difference:.3g} from those of its head, so every probability would be wrong. "
            "Fix: choose a model of another architecture"
        )
    if (ahead := float((whole - continued)[:, :2].float().abs().max())) > allowed:
        raise ModelError(
            f"{type(unwrapped(model)).__name__} is no causal language model: its logits change by up to {ahead:.3g} "
            "with the tokens that follow. Fix: choose a model of another architecture"
        )


def unwrapped(model: Any) -> Any:
    """The causal language model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def compiled(model: "PreTrainedModel") -> "PreTrainedModel":
    """Copy a model with shared weights, with a body that is compiled in its first pass, for texts of any length."""
    twin, body = copy.copy(model), copy.copy(model.base_model)
    twin._modules = {**model._modules, model.base_model_prefix: body}
    body.compile(dynamic=True)
    return twin


def model_folder(config: ModelConfig, store: ArtifactStore, *, key: str = "model.path", weights: bool = True) -> Path:
    """Local folder with the files of a model; made if the model is converted or generated. Raises `ModelError`."""
    if config.source is ModelSource.hub:
        trusted = config.trust_remote_code
        return sources.model_directory(
            config.path, config.revision, trust_remote_code=trusted, weights=weights, key=key
        )
    with quiet_transformers():
        if config.source is ModelSource.tiny:
            return tiny_model(store).path
        return sources.packaged_model(config.path, store, key=key).path


def _with_adapter(model: "PreTrainedModel", config: ModelConfig, adapter: str, *, merge: bool) -> Any:
    from peft import PeftModel
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    folder = sources.adapter_directory(adapter)
    alone = here().num_workers == 1  # each of several workers would have to read all files of the base model
    check_base(folder, adapter, config.path, config.hub_id, lambda: is_trained_on(folder, config), by_content=alone)
    what = f"adapter '{adapter}' does not load onto {type(model).__name__} ('{config.path}')"
    with reading(what, "give the model that it was trained on"), warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5 renamed; the old name still works.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        warnings.filterwarnings("error", message="Found missing adapter keys")  # PEFT only warns of them
        wrapped = PeftModel.from_pretrained(model, folder, use_safetensors=True)
        # Once more, for the list of weights without a place, which `from_pretrained` drops without a word.
        unused = set_peft_model_state_dict(wrapped, load_peft_weights(folder, device="cpu")).unexpected_keys
        if unused:
            raise ModelError(
                f"{what}: {len(unused)} of its weights have no place in the model, e.g. {sorted(unused)[0]}. "
                "Fix: give the model that it was trained on"
            )
        _check_depth(model, wrapped.peft_config["default"], what)
        return wrapped.merge_and_unload() if merge else wrapped


def _check_depth(model: "PreTrainedModel", settings: Any, what: str) -> None:
    """Refuse an adapter of a shallower model, whose settings list the modules of its layers one by one.

    PEFT writes such a list for `target_modules="all-linear"`; further layers would stay as they are.
    """
    targets = getattr(settings, "target_modules", None)
    named = targets if isinstance(targets, list | set) else []
    changed = {int(found.group(1)) for name in named if (found := re.search(r"\.(\d+)\.", name))}
    depth = int(model.config.get_text_config().num_hidden_layers)
    if changed and getattr(settings, "layers_to_transform", None) is None and len(changed) == max(changed) + 1 < depth:
        raise ModelError(
            f"{what}: it changes the first {len(changed)} of {depth} layers only, as that of a shallower model does. "
            "Fix: give the model that it was trained on; if only these layers were trained, note them as "
            f"layers_to_transform in its {ADAPTER_CONFIG}"
        )


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
