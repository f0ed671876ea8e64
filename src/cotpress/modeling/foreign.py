"""Security checks of a model folder, made before any library reads it.

A folder can make a library run code in these ways:

- pickled weights (`*.bin`, `*.pt`), also named in a safetensors index, or outside the folder;
- `auto_map`: Python code beside the weights or in another repository;
- an attention implementation `owner/name`: a compiled kernel from the hub;
- `megatron_core` of an adapter: the name of a module that PEFT imports.

Code beside the weights runs only with `trust_remote_code`, which covers one model.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cotpress.errors import CotpressError, ModelError
from cotpress.invocation import as_typed

log = logging.getLogger(__name__)

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_INDEX = "*.safetensors.index.json"
_LONGEST_REASON = 400
"""Most characters of a library's message, which may list all weights."""
_KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_OTHERS = "Other formats can run code or be cut short, so they are not read."
_SAVE = "Fix: save it once with model.save_pretrained(DIR) and give "


def check_model(folder: Path, named: str, key: str) -> None:
    """Refuse a folder that holds no settings of a model, such as that of a PEFT adapter; arguments as `check_weights`.

    Raises:
        ModelError: There is no `config.json`.
    """
    if (folder / "config.json").is_file():
        return
    if (folder / ADAPTER_CONFIG).is_file():
        base = _json(folder / ADAPTER_CONFIG, named, key).get("base_model_name_or_path")
        trained_on = f" ('{base}')" if base else ""
        raise ModelError(
            f"{key}: '{named}' is a PEFT adapter, not a whole model. Fix: {as_typed('evaluate')} adapter={named} with "
            f"the model that it was trained on{trained_on}; elsewhere merge it into that model (merge_and_unload) and "
            f"give the folder of the result as {key}=DIR"
        )
    raise ModelError(
        f"{key}: '{named}' has no config.json, which describes the model: {folder} holds {_names(folder)}. Fix: fetch "
        f"it again, or {_SAVE[5:]}{key}=DIR"
    )


def check_weights(folder: Path, named: str, key: str) -> None:
    """Refuse a folder that does not contain its weights as safetensors.

    The messages of this and the other checks have the path or hub id `named` that the user gave for `key`.

    Raises:
        ModelError: The weights have another format or lie elsewhere.
    """
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{key}: '{named}' has no safetensors weights: {folder} holds {_names(folder)}. {_OTHERS} {_SAVE}{key}=DIR"
        )
    for index in sorted(folder.glob(_INDEX)):
        parts = _json(index, named, key).get("weight_map")
        names = sorted({str(part) for part in parts.values()}) if isinstance(parts, dict) else ["no weight_map"]
        wrong = [n for n in names if Path(n).name != n or not n.endswith(".safetensors") or not (folder / n).is_file()]
        if wrong:
            raise ModelError(
                f"{key}: '{named}': {index} names {wrong[:3]} as weights. Allowed: safetensors files beside it. "
                "Fix: fetch the model again, or save it anew with model.save_pretrained(DIR)"
            )


def check_settings(folder: Path, named: str, key: str, *, trust_remote_code: bool) -> None:
    """Refuse settings that run code without the user's consent; `trust_remote_code` covers code in this folder.

    Raises:
        ModelError: A file names a kernel from the hub or the code of another repository, or is not a JSON object.
    """
    for file in ("config.json", "tokenizer_config.json"):
        settings = _json(folder / file, named, key) if (folder / file).is_file() else {}
        for place, value in _leaves(settings):
            if place[-1] in _KERNEL_KEYS and isinstance(value, str) and "/" in value:
                raise ModelError(
                    f"{key}: '{named}': {file} names the kernel '{value}', compiled code from the hub, which is never "
                    f"loaded. Fix: remove {place[-1]} from {file}; model.attention chooses among the built-in ones"
                )
            if trust_remote_code and "auto_map" in place and isinstance(value, str) and "--" in value:
                repository = value.partition("--")[0]
                if repository != named:
                    raise ModelError(
                        f"{key}: '{named}': {file} takes its code from another repository, '{repository}', which "
                        f"model.trust_remote_code=true does not cover. Fix: {key}={repository}, or put the code beside "
                        "the weights"
                    )


def check_adapter(folder: Path, named: str, key: str) -> None:
    """Refuse a folder without a safetensors PEFT adapter, one that makes PEFT import a module, and learned prompts.

    Learned prompts are no change of weights: they stand before every text that the model reads, which packed texts,
    caches and token counts leave no room for.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{key}: '{named}' holds no {ADAPTER_CONFIG} but {_names(folder)}. Fix: give the folder of a PEFT adapter, "
            f"{key}=DIR; a whole model is no adapter, give it as model=DIR"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{key}: '{named}' has no {ADAPTER_WEIGHTS} but {_names(folder)}. {_OTHERS} {_SAVE}{key}=DIR")
    settings = _json(folder / ADAPTER_CONFIG, named, key)
    if settings.get("megatron_config"):
        raise ModelError(
            f"{key}: '{named}': {ADAPTER_CONFIG} has a megatron_config, for which PEFT would import the module "
            f"'{settings.get('megatron_core')}'. Allowed: null. Fix: export the adapter without Megatron"
        )
    from peft import PEFT_TYPE_TO_TUNER_MAPPING

    kind = str(settings.get("peft_type"))
    if not hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "merge_and_unload"):
        raise ModelError(
            f"{key}: '{named}': {ADAPTER_CONFIG} has the peft_type '{kind}', which does not change the weights of a "
            "model. Allowed: adapters that do, such as LORA or IA3. Fix: train a LoRA adapter instead"
        )


def check_base(
    folder: Path, named: str, path: str, hub_id: str | None, is_base: Callable[[], bool | None], *, by_content: bool
) -> None:
    """Warn of an adapter whose settings name another base model than that of `path` or `hub_id`.

    A model of another name is no other model if `is_base` knows that it has the content of the base model. With
    `by_content`, one of the same name is another model if `is_base` knows that it has another content.
    """
    settings = _json(folder / ADAPTER_CONFIG, named, "adapter")
    base = str(settings.get("base_model_name_or_path") or "")
    is_other = bool(base) and _model_name(base) not in {_model_name(path), _model_name(hub_id or path)}
    known = is_base() if is_other or by_content else None
    if known is False:
        log.warning(
            "adapter '%s': it was trained on a model of other content than that of '%s', on which it is put. There its "
            "numbers mean nothing", named, path,
        )  # fmt: skip
    elif is_other and not known:
        log.warning(
            "adapter '%s': its %s names '%s' as its base model, but it is put on '%s'. On another model than the one "
            "it was trained on its numbers mean nothing", named, ADAPTER_CONFIG, base, path,
        )  # fmt: skip


def _model_name(path: str) -> str:
    """The name of a model without its owner or folder; for the hub's cache that of the hub id."""
    cached = re.search(r"models--(?:[^/]*--)?([^/]+)/snapshots/", path)
    return (cached.group(1) if cached else path.rstrip("/").rpartition("/")[2]).lower()


@contextmanager
def reading(what: str, fix: str = "") -> Iterator[None]:
    """Turn any error of a library that reads foreign files into a `ModelError` that begins with `what`."""
    try:
        yield
    except (CotpressError, MemoryError):
        raise
    except Exception as error:  # transformers, PEFT, safetensors and tokenizers raise types of their own and bare ones
        raise ModelError(f"{what}: {_reason(error)}{f'. Fix: {fix}' if fix else ''}") from error


def settings_of(folder: Path, named: str, key: str) -> dict[str, Any]:
    """The content of `config.json`; empty without one."""
    return _json(folder / "config.json", named, key) if (folder / "config.json").is_file() else {}


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())[:12]


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return (
            "it brings Python code of its own, which is not run by default. Fix: read that code; if you trust it, "
            "model.trust_remote_code=true"
        )
    if "backend tokenizer" in text or not text:
        return "there is no tokenizer in it. Fix: copy tokenizer.json and tokenizer_config.json beside the weights"
    if "attn_implementation" in text:
        return "its code does not support this implementation of attention. Fix: model.attention=eager"
    if "ignore_mismatched_sizes" in text:
        return "weights have other sizes than config.json says. Fix: fetch config.json and weights of one model again"
    if len(text) > _LONGEST_REASON:
        text = text[:_LONGEST_REASON] + " ..."
    return text if isinstance(error, OSError | ValueError | ImportError) else f"{type(error).__name__}: {text}"


def _json(path: Path, named: str, key: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{key}: '{named}': {path} is not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{key}: '{named}': {path} holds {type(content).__name__}, allowed: a JSON object")
    return content


def _leaves(value: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Values in nested settings, each with the path of keys to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, place)
    elif place:
        yield place, value
