"""Hydra without work that it repeats in every composition; a composition takes half the time."""

import copy
from pathlib import Path
from typing import Any

import pytest


def compose_fast(patch: pytest.MonkeyPatch) -> None:
    """Read each YAML once, leave the config store uncopied, and list choices only where a default refers to one.

    What is composed stays the same: Hydra itself copies each node of the store that it loads. Commands in processes of
    their own compose with Hydra as it is.
    """
    from hydra._internal import defaults_list
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra.core.config_store import ConfigStore

    read: dict[tuple[object, ...], Any] = {}
    load, list_choices = FileConfigSource.load_config, defaults_list._create_interpolation_map

    def load_once(source: FileConfigSource, config_path: str) -> Any:
        path = Path(source.path, source._normalize_file_name(config_path)).resolve()
        if not path.exists():
            return load(source, config_path)
        status = path.stat()
        key = (source.path, source.provider, path, status.st_mtime_ns, status.st_size)
        if key not in read:
            read[key] = load(source, config_path)
        return copy.deepcopy(read[key])

    def list_needed(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        if any(default.is_interpolation() for default in defaults if not default.is_self()):
            return list_choices(overrides, defaults, self_added)
        return None

    patch.setattr(FileConfigSource, "load_config", load_once)
    patch.setattr(ConfigStore, "__deepcopy__", lambda store, _: store, raising=False)
    patch.setattr(defaults_list, "_create_interpolation_map", list_needed)
