"""Scorers, data sources and benchmarks from outside of the package.

A module registers them with a decorator (`register_scorer`, `register_data`, `register_benchmark`) and is imported at
the start of a command: `plugins=[my_module]` names it, also a file in the working directory, or an installed package
names it as an entry point of one of `GROUPS`.
"""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Any

from cotpress.errors import ConfigError

GROUPS = ("cotpress.scorers", "cotpress.data", "cotpress.benchmarks")
"""Groups of entry points; each entry is a module, or an object of a module, that registers itself when imported."""

CHOICES: dict[str, dict[str, type]] = {}  # settings classes by configuration group and name on the command line


def add_choice(group: str, name: str, settings: type) -> None:
    """Make settings selectable as `GROUP=NAME`, without a YAML; a YAML of that name takes precedence."""
    CHOICES.setdefault(group, {})[name] = settings


def choice_lines(group: str) -> dict[str, str]:
    """Registered choices of a group, each with the first line of its settings' docstring."""
    return {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in sorted(CHOICES.get(group, {}).items())}


def store_choices(store: Any) -> None:
    """Put the registered choices into Hydra's `ConfigStore`."""
    for group, choices in CHOICES.items():
        for name, settings in choices.items():
            store.store(group=group, name=name, node=settings(name=name))


def plugin_names(arguments: Sequence[str]) -> list[str]:
    """Module names in the argument `plugins=[...]` of a command line, which may begin with `+`."""
    values = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("plugins=")]
    return [name.strip(" '\"") for value in values for name in value.strip("[]").split(",") if name.strip(" '\"")]


def without_plus(arguments: Sequence[str]) -> list[str]:
    """The arguments with `plugins=` for `+plugins=`: the key is part of every configuration, which Hydra cannot add."""
    return [a.lstrip("+") if a.startswith("+") and a.lstrip("+").startswith("plugins=") else a for a in arguments]


def load_plugins(names: Sequence[str]) -> None:
    """Import modules by name, also from the working directory, and those of installed entry points.

    Raises:
        ConfigError: A module is missing or cannot be imported.
    """
    if names and os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109 (child processes inherit it)
    for name in names:
        _imported(f"plugins: module '{name}'", lambda name=name: importlib.import_module(name))
    installed = importlib.metadata.entry_points()  # once: it reads the metadata of every installed package
    for entry in (entry for group in GROUPS for entry in installed.select(group=group)):
        _imported(f"entry point '{entry.name}' of group '{entry.group}' ({entry.value})", entry.load)


def _imported(what: str, load: Any) -> None:
    try:
        load()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} cannot be imported: {type(error).__name__}: {error}. Fix: the name of a module beside the working "
            "directory or of an installed package, plugins=[NAME]"
        ) from error
