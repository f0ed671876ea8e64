"""`experiment=NAME` in every entry script: the part of the experiment that the script and its command line have.

An experiment is written for the whole flow, and Hydra refuses to override a group or a setting that is missing. A
command that lacks some gets a copy of the experiment without them, as the choice `experiment=SCRIPT/NAME`.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.cli.composing import folders_of, loader_of
from cotpress.config import SCHEMAS
from cotpress.errors import ConfigError
from cotpress.invocation import as_typed, program

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

_KEY = "experiment"
_WITHOUT_STUDENTS = {
    "all": "all_checkpoint", "default": "checkpoint", "papers": "full_checkpoint", "students": "checkpoint"
}  # fmt: skip
"""Choices of `evaluation` for the rows of a run, and what stands for them in evaluate.py, which trains no students."""


def with_experiments(arguments: Sequence[str], entry: str, conf: Path) -> list[str]:
    """Replace the experiments on the command line of a script by the parts of them that the command has.

    An experiment that a sweep's file chooses is put on the command line where the command lacks a part of it.

    Raises:
        ConfigError: An experiment sets nothing that the script has.
    """
    if not any(argument.lstrip("+").startswith((f"{_KEY}=", "sweep=")) for argument in arguments):
        return list(arguments)
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    options = get_args_parser().parse_args(list(arguments))
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    command = _Command(entry, folders_of(arguments, overrides, conf), overrides)
    parts = {o.input_line: f"{o.get_key_element()}={command.parts(o._value)}" for o in overrides if _is_experiment(o)}
    own = [parts.get(argument, argument) for argument in arguments]
    for sweep in () if parts else [o for o in overrides if o.key_or_group == "sweep" and not o.is_delete()]:
        chosen = command.experiment_of_sweep(name) if isinstance(name := sweep.value(), str) else None
        if chosen is not None and (part := command.part(chosen)) != chosen:
            own.insert(own.index(str(sweep.input_line)) + 1, f"{_KEY}={part}")  # at the end an option may precede it
    return own


def _is_experiment(override: "Override") -> bool:
    from hydra.core.override_parser.types import Glob

    return override.key_or_group == _KEY and not override.is_delete() and not isinstance(override._value, Glob)


@dataclasses.dataclass
class _Command:
    """A command line: its script, the folders of its configuration, and its settings."""

    entry: str
    folders: list[Path]
    overrides: "list[Override]"

    def parts(self, value: Any) -> str:
        """The text of a parsed value of `experiment`, with the parts in place of the experiments."""
        from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString

        if isinstance(value, ChoiceSweep):
            return ",".join(map(self.parts, value.list))
        if isinstance(value, list):
            return f"[{','.join(map(self.parts, value))}]"
        if isinstance(value, QuotedString):
            return QuotedString(self.part(value.text), value.quote).with_quotes()
        return self.part(value) if isinstance(value, str) else Override._get_value_element_as_str(value)

    def experiment_of_sweep(self, name: str) -> str | None:
        """The experiment that the file of a sweep chooses, also in a sweep that it builds on; None without."""
        from omegaconf import OmegaConf

        file = next((f for folder in self.folders if (f := folder / "sweep" / f"{name}.yaml").is_file()), None)
        loaded: Any = {} if file is None else OmegaConf.load(file)
        chosen = None
        for choice in loaded.get("defaults", []):
            if isinstance(choice, str):
                chosen = chosen if choice == "_self_" else self.experiment_of_sweep(choice) or chosen
            else:
                chosen = next((str(v) for k, v in choice.items() if _place(k) == _KEY and v is not None), chosen)
        return chosen

    def part(self, name: str) -> str:
        """Store the command's part of an experiment in Hydra's config store; returns its name as a choice."""
        from hydra.core.config_store import ConfigStore
        from omegaconf import OmegaConf

        files = [folder / _KEY / f"{name}.yaml" for folder in self.folders]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            return name  # Hydra lists the choices
        experiment: Any = OmegaConf.to_container(OmegaConf.load(file))
        left_out: list[str] = []
        defaults: list[str | dict[str, str]] = []
        for choice in experiment.pop("defaults", []):
            if isinstance(choice, str) and choice != "_self_":  # another experiment
                part = self.part(choice)
                left_out += [choice] * (part != choice)
                defaults.append(f"/{_KEY}/{part}")
            elif isinstance(choice, str) or not self._lacks(place := _place(*choice)):
                own = choice if isinstance(choice, str) else self._without_students(choice)
                left_out += ["evaluation"] * (own != choice)
                defaults.append(own)
            else:
                left_out.append(place.partition(".")[0])
        left_out += [key for key in experiment if self._lacks(key)]
        kept = {key: value for key, value in experiment.items() if not self._lacks(key)}
        for group in (key for key, value in kept.items() if isinstance(value, dict)):
            settings = {key: value for key, value in kept[group].items() if not self._lacks(f"{group}.{key}")}
            left_out += [group] * (len(settings) < len(kept[group]))
            kept[group] = settings
        if not left_out:
            return name
        if not kept and not defaults:
            raise ConfigError(
                f"experiment: got '{name}', but {program(self.entry)} has none of the settings that it changes: "
                f"{', '.join(dict.fromkeys(left_out))}. Fix: {as_typed('train')} experiment={name}"
            )
        ConfigStore.instance().store(
            group=f"{_KEY}/{self.entry}", name=name, node={"defaults": defaults, **kept}, package="_global_"
        )
        return f"{self.entry}/{name}"

    def _without_students(self, choice: dict[str, str]) -> dict[str, str]:
        """The choice of a group for this script: in evaluate.py the rows that need no training."""
        ((key, value),) = choice.items()
        if self.entry != "evaluate" or _place(key) != "evaluation":
            return choice
        return {key: _WITHOUT_STUDENTS.get(value, value)}

    def _lacks(self, place: str) -> bool:
        """Return True for a key that only other scripts have, or no choice of its group on the command line."""
        group, _, key = place.partition(".")
        if group not in _KEYS[self.entry]:
            return any(group in keys for keys in _KEYS.values())  # Hydra refuses a key of no script
        chosen = self._chosen.get(group, []) if key else []
        return bool(chosen) and all(key.partition(".")[0] not in map(str, config[group]) for config in chosen)

    @cached_property
    def _chosen(self) -> "dict[str, list[DictConfig]]":
        """The configuration with each choice on the command line, by group."""
        from hydra.core.override_parser.types import Glob
        from hydra.types import RunMode

        loader = loader_of(self.folders)
        groups = {key for key in _KEYS[self.entry] if any((folder / key).is_dir() for folder in self.folders)}
        return {
            o.key_or_group: [
                loader.load_configuration(self.entry, [f"{o.key_or_group}={choice}"], RunMode.RUN)
                for choice in (o.sweep_string_iterator() if o.is_choice_sweep() else [o.value()])
            ]
            for o in self.overrides
            if o.key_or_group in groups and o.package is None and not o.is_delete() and not isinstance(o._value, Glob)
        }


_KEYS = {
    name.removesuffix("_schema"): {"hydra", *(f.name for f in dataclasses.fields(schema))}
    for name, schema in SCHEMAS.items()
    if "/" not in name
}
"""The keys of each script."""


def _place(choice: str) -> str:
    """The place in the configuration where a choice stands: `reference.base` for `override /model@reference.base`."""
    group, _, place = choice.removeprefix("override ").removeprefix("/").partition("@")
    return place or group.partition("/")[0]
