"""`experiment=NAME` in every entry script: the part of the experiment that the script has groups for.

An experiment is written for the whole flow, and Hydra refuses to override a group that a script lacks. A script that
lacks some gets a copy of the experiment without them, as the choice `experiment=SCRIPT/NAME`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cotpress.config import SCHEMAS
from cotpress.errors import ConfigError

_KEY = "experiment="


def with_experiments(arguments: Sequence[str], entry: str, conf: Path) -> list[str]:
    """Replace the experiments on the command line of a script by the parts of them that the script has.

    Raises:
        ConfigError: An experiment sets nothing that the script has.
    """

    def parts(argument: str) -> str:
        names = argument.removeprefix(_KEY).split(",")
        return _KEY + ",".join(_part(name, entry, conf) for name in names)

    return [parts(argument) if argument.startswith(_KEY) else argument for argument in arguments]


def _part(name: str, entry: str, conf: Path) -> str:
    """Store a script's part of an experiment in Hydra's config store; returns its name as a choice of the group."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    file = conf / "experiment" / f"{name}.yaml"
    if not file.is_file():
        return name  # Hydra lists the choices, or finds it in another --config-dir
    keys = {"hydra", *(f.name for f in dataclasses.fields(SCHEMAS[f"{entry}_schema"]))}
    experiment = OmegaConf.load(file)
    assert isinstance(experiment, DictConfig)
    left_out = [str(key) for key in experiment if key not in keys and key != "defaults"]
    defaults = []
    for choice in experiment.pop("defaults", []):
        if isinstance(choice, str):  # another experiment, or _self_
            defaults.append(choice if choice == "_self_" else _part(choice, entry, conf).rpartition("/")[2])
        elif (key := _top_key(*map(str, choice))) in keys:
            defaults.append(choice)
        else:
            left_out.append(key)
    if not left_out:
        return name
    kept = {key: value for key, value in experiment.items() if key in keys}
    if not kept and not defaults:
        raise ConfigError(
            f"experiment: got '{name}', but {entry}.py has none of the settings that it changes: "
            f"{', '.join(dict.fromkeys(left_out))}. Fix: python train.py experiment={name}"
        )
    ConfigStore.instance().store(
        group=f"experiment/{entry}", name=name, node={"defaults": defaults, **kept}, package="_global_"
    )
    return f"{entry}/{name}"


def _top_key(choice: str) -> str:
    """The key of the configuration below which a choice stands: `reference` for `override /model@reference.base`."""
    group, _, place = choice.removeprefix("override ").removeprefix("/").partition("@")
    return (place or group).partition(".")[0].partition("/")[0]
