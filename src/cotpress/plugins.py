"""Scorers, data sources and benchmarks from outside of the package.

A module registers them with a decorator (`register_scorer`, `register_data`, `register_benchmark`) and is imported at
the start of a command: `plugins=[my_module]` names it, also a file in the working directory, or an installed package
names it as an entry point of one of `GROUPS`.
"""

import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cotpress.errors import ConfigError, did_you_mean

GROUPS = ("cotpress.scorers", "cotpress.data", "cotpress.benchmarks")
"""Groups of entry points; each entry is a module, or an object of a module, that registers itself when imported."""

CHOICES: dict[str, dict[str, type]] = {}  # settings classes by configuration group and name on the command line
_INSTALLED: dict[tuple[str, str], str] = {}  # the entry point that registered a choice, by group and name

LOADED: set[str] = set()  # names of the modules that this process has loaded as plugins


def add_choice(groups: Iterable[str], name: str, settings: type, base: type) -> None:
    """Make settings selectable as `GROUP=NAME` for each of the groups, without a YAML.

    Raises:
        ConfigError: Another plugin has the name, or the settings are no dataclass that OmegaConf can hold, with a
            default for every field, that derives from `base`.
    """
    for group in groups:
        place = f"{group}={name}"
        if not re.fullmatch(r"[\w-]+", name) or name == "null" or name.endswith("_schema"):
            raise ConfigError(
                f"{group}: a plugin registers the name '{name}', allowed: letters, digits, _ and -, but neither null "
                "nor an end in _schema. Fix: another name"
            )
        if name in CHOICES.get(group, {}):
            raise ConfigError(f"{place}: two plugins register this name. Fix: rename one of them, or load only one")
        _check_settings_class(place, name, settings, base)
        CHOICES.setdefault(group, {})[name] = settings


def _check_settings_class(place: str, name: str, settings: type[Any], base: type[Any]) -> None:
    from omegaconf import OmegaConf

    shown = getattr(settings, "__name__", repr(settings))
    # The fields of a class without the decorator are not part of the inherited `__dataclass_fields__`.
    if not (isinstance(settings, type) and issubclass(settings, base) and "__dataclass_fields__" in vars(settings)):
        raise ConfigError(
            f"{place}: the settings {shown} are no dataclass that derives from {base.__name__}. "
            f"Fix: @dataclass(kw_only=True, slots=True) above class {shown}({base.__name__})"
        )
    try:
        OmegaConf.structured(settings(name=name))
    except Exception as error:
        key = getattr(error, "full_key", None)
        problem = str(getattr(error, "msg", None) or error).partition("\n")[0]
        raise ConfigError(
            f"{place}: the settings {shown} cannot be used{f', field {key!r}' if key else ''}: {problem}. Allowed: "
            "fields of type int, float, bool, str, Path, Enum, list, dict or dataclass, each with a default of its "
            "type; omegaconf.MISSING is one that the command line has to give"
        ) from error


def check_names(conf: Path) -> list[str]:
    """Leave out installed plugins with the name of a choice in `conf`, whose YAML Hydra would take; returns warnings.

    Raises:
        ConfigError: A plugin that the command names has such a name.
    """
    warnings = []
    for group, name in [(group, name) for group, choices in CHOICES.items() for name in choices]:
        if not (conf / group / f"{name}.yaml").is_file():
            continue
        problem = (
            f"{group}={name}: the plugin {CHOICES[group][name].__module__} registers a name that cotpress has already. "
            f"Fix: another name; --help {group} lists those that are taken"
        )
        if (group, name) not in _INSTALLED:
            raise ConfigError(problem)
        del CHOICES[group][name]
        warnings.append(f"{_INSTALLED[group, name]} is left out: {problem}")
    return warnings


def check_loaded(names: Sequence[str]) -> None:
    """Raise a `ConfigError` for a plugin of the composed configuration that this process has not loaded."""
    for name in names:
        if name not in sys.modules:
            raise ConfigError(
                f"plugins: got '{name}' from a YAML, but plugins are loaded before any YAML is read. "
                f"Fix: name it on the command line, plugins=[{','.join(names)}]"
            )


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
    names = [name.strip(" '\"") for value in values if value != "null" for name in value.strip("[]").split(",")]
    return [name for name in names if name]


def without_plus(arguments: Sequence[str]) -> list[str]:
    """The arguments with `plugins=` for `+plugins=`: the key is part of every configuration, which Hydra cannot add."""
    return [a.lstrip("+") if a.startswith("+") and a.lstrip("+").startswith("plugins=") else a for a in arguments]


def load_plugins(names: Sequence[str]) -> list[str]:
    """Import modules by name, also from the working directory, and those of installed entry points.

    An installed one that cannot be used is left out, as it would stop every command; returns the warnings.

    Raises:
        ConfigError: A named module is missing or cannot be imported.
    """
    if names and os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109 (child processes inherit it)
    warnings = []
    for name in names:
        is_new, num_before = name not in sys.modules, sum(map(len, CHOICES.values()))
        _imported(f"plugins: module '{name}'", name, lambda name=name: importlib.import_module(name))
        if is_new and sum(map(len, CHOICES.values())) == num_before:
            warnings.append(
                f"plugins: module '{name}' registers nothing. Fix: @register_scorer(NAME, SETTINGS) above its class, "
                "or register_data or register_benchmark above its function"
            )
    installed = importlib.metadata.entry_points()  # once: it reads the metadata of every installed package
    for entry in (entry for group in GROUPS for entry in installed.select(group=group)):
        what = f"entry point '{entry.name}' of group '{entry.group}' ({entry.value})"
        before = {(group, name) for group, choices in CHOICES.items() for name in choices}
        try:
            _imported(what, entry.module, entry.load)
        except ConfigError as error:
            warnings.append(f"{what} is left out: {str(error).removeprefix(what).lstrip(': ')}")
        made = {(group, name) for group, choices in CHOICES.items() for name in choices} - before
        _INSTALLED.update(dict.fromkeys(made, what))
    return warnings


def _of_module(name: str) -> str:
    """Names a module in place of one that does not exist: that of a file, if the name is its path."""
    path = Path(name)
    file = path if path.suffix == ".py" else path.with_suffix(".py")
    if file.is_file() and file.stem.isidentifier():
        folder = "" if file.parent == Path() else f"PYTHONPATH={file.parent} before the command, and "
        return f"{folder}plugins=[{file.stem}]"
    near = sorted(other.stem for other in Path().glob("*.py") if other.stem.isidentifier())
    guess = did_you_mean(name, near).partition(" Allowed: ")[0]
    what = "the name of a module in the working directory or of an installed package, plugins=[NAME]"
    return f"{what}.{guess}" if guess else what


def _imported(what: str, module: str, load: Any) -> None:
    try:
        load()
        LOADED.add(module)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:
        fix = "correct the module, or leave it out"
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            fix = f"install the package that provides '{error.name}', which the module imports"
            if f"{module}.".startswith(f"{error.name}."):
                fix = _of_module(module)
        raise ConfigError(f"{what} cannot be imported: {type(error).__name__}: {error}. Fix: {fix}") from error
