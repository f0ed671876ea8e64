"""Settings as they are published: names in place of the paths, addresses and accounts of this machine.

A published file says from what it was made, and nothing about where. Of a local path the last part remains
(`traces.jsonl`), hub ids and names of packages stay, and settings that say something about the machine are left out.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from cotpress.store.paths import HUB_SCHEME
from cotpress.store.redaction import masked

MACHINE_SETTINGS = frozenset({
    "output_root", "output", "runs", "tracker", "plugins", "planning", "plan", "base_url", "api_key_env", "rendezvous",
    "python",
})  # fmt: skip
"""Names of settings, at any depth, of which nothing is published: folders, accounts and addresses."""
PATH_SETTINGS = frozenset({
    "path", "adapter", "writer", "start", "reference_tokenizer", "base_path", "name_or_path", "_name_or_path",
    "base_model_name_or_path", "tokenizer_name_or_path",
})  # fmt: skip
"""Names of settings that hold a path, a hub id or a name."""
HOME = "a folder"
"""Published in place of the home folder itself, whose name is that of the user."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r"\.(jsonl|ndjson|json|csv|parquet|gguf|safetensors|gz|zst)$", re.IGNORECASE)
_REST = r"(?:/[^\s'\"`,;:)\]}]*)?"
"""What follows a folder in a text, up to the end of the path."""


def published(value: Any) -> Any:
    """Copy settings, JSON values, for a published file: without secrets and `MACHINE_SETTINGS`, paths as names."""
    return _published(masked(value), _folders())


def without_paths(value: Any) -> Any:
    """Copy JSON values of a library's file, without local paths under `PATH_SETTINGS`, other ones as their names."""
    folders = _folders()
    if isinstance(value, Mapping):
        return {
            key: v if key in PATH_SETTINGS else without_paths(v)
            for key, v in value.items()
            if not (key in PATH_SETTINGS and isinstance(v, str) and _name(v, folders) != v)
        }
    if isinstance(value, list):
        return [without_paths(v) for v in value]
    return _without_folders(value, folders) if isinstance(value, str) else value


def name_of(path: str) -> str:
    """The name of what a setting of `PATH_SETTINGS` holds: a hub id as it is, of a local path the last part."""
    return _name(path, _folders())


def _published(value: Any, folders: list[str], key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {
            _without_folders(str(k), folders): _published(v, folders, str(k))
            for k, v in value.items() if k not in MACHINE_SETTINGS
        }  # fmt: skip
    if isinstance(value, list | tuple):
        return [_published(v, folders, key) for v in value]
    if not isinstance(value, str):
        return value
    return _name(value, folders) if key in PATH_SETTINGS else _without_folders(value, folders)


def _name(path: str, folders: list[str]) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111 (an unknown user stays as typed)
    if path.startswith(HUB_SCHEME) or "/" not in expanded:
        return path
    if _HUB_ID.fullmatch(path) and not _FILE.search(path) and not os.path.exists(path):  # noqa: PTH110
        return path
    place = os.path.normpath(expanded)
    return HOME if place in folders else PurePath(place).name


def _without_folders(text: str, folders: list[str]) -> str:
    """Replace paths below some folders, in a text, by their names."""
    for folder in folders:
        text = re.sub(rf"{re.escape(folder)}(?![\w-]){_REST}", lambda match: _name(match[0], folders), text)
    return text


def _folders() -> list[str]:
    """Folders whose paths say something about this machine, the longest first."""
    places = {str(Path.home()), os.getcwd(), *_variables()}  # noqa: PTH109
    places |= {os.path.realpath(place) for place in places}
    return sorted((place for place in places if place.count("/") > 1 or place == "/root"), key=len, reverse=True)


def _variables() -> Iterator[str]:
    for name in ("HOME", "PWD", "TMPDIR", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        if (value := os.environ.get(name, "")).startswith("/"):
            yield os.path.normpath(value)
