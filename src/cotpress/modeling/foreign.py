"""Security checks of a model folder, made before any library reads it.

A folder can make a library run code in these ways:

- pickled weights (`*.bin`, `*.pt`), also named in a safetensors index, or outside the folder;
- `auto_map`: Python code beside the weights or in another repository;
- an attention implementation `owner/name`: a compiled kernel from the hub;
- `megatron_core` of an adapter: the name of a module that PEFT imports.

Code beside the weights runs only with `trust_remote_code`, which covers one model.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cotpress.errors import CotpressError, ModelError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_INDEX = "*.safetensors.index.json"
_KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
_OTHERS = "Other formats can run code or be cut short, so they are not read."
_SAVE = "Fix: save it once with model.save_pretrained(DIR) and give "


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
    """Refuse a folder without a safetensors PEFT adapter, or with one that makes PEFT import a module."""
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{key}: '{named}' holds no {ADAPTER_CONFIG} but {_names(folder)}. Fix: give the folder of a PEFT adapter, "
            f"{key}=DIR; a whole model is no adapter, give it as model=hub model.path=DIR"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{key}: '{named}' has no {ADAPTER_WEIGHTS} but {_names(folder)}. {_OTHERS} {_SAVE}{key}=DIR")
    settings = _json(folder / ADAPTER_CONFIG, named, key)
    if settings.get("megatron_config"):
        raise ModelError(
            f"{key}: '{named}': {ADAPTER_CONFIG} has a megatron_config, for which PEFT would import the module "
            f"'{settings.get('megatron_core')}'. Allowed: null. Fix: export the adapter without Megatron"
        )


@contextmanager
def reading(what: str, fix: str = "") -> Iterator[None]:
    """Turn any error of a library that reads foreign files into a `ModelError` that begins with `what`."""
    try:
        yield
    except (CotpressError, MemoryError):
        raise
    except Exception as error:  # transformers, PEFT, safetensors and tokenizers raise types of their own and bare ones
        raise ModelError(f"{what}: {_reason(error)}{f'. Fix: {fix}' if fix else ''}") from error


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
