"""Messages for the errors of Hydra and OmegaConf: the key, its value, the allowed values, the fix."""

import dataclasses
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cotpress.cli.help import choices, defaults_of, groups_of
from cotpress.config import SCHEMAS
from cotpress.errors import ConfigError, did_you_mean
from cotpress.settings import RATIO_RANGE
from cotpress.tasks import PLAN_FIX

_PARSERS = ("hydra", "omegaconf", "antlr4", "yaml")
"""Packages that only read command lines and configurations."""


def explain(error: BaseException, entry: str, conf: Path) -> str | None:
    """The message for an error of the configuration of a script, raised by Hydra; None for any other error."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return _explain_value(cause, entry)
        if isinstance(cause, MissingConfigException):
            return _explain_choice(cause, conf)
        if cause.__cause__ is None and isinstance(cause, HydraException):
            return _explain_override(str(cause), entry, conf)
        cause = cause.__cause__
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] in _PARSERS:
        problem = str(error).partition("\n")[0].partition(" : Override(")[0]
        return (
            f"the command line cannot be read: {problem or type(error).__name__}. Allowed: KEY=VALUE, or GROUP=CHOICE "
            f"with the name of a choice. Fix: python {entry}.py --help"
        )
    return None


def _explain_choice(error: BaseException, conf: Path) -> str:
    missing = str(getattr(error, "missing_cfg_file", "")).removesuffix(".yaml")
    group, _, choice = missing.rpartition("/")
    folder = conf / group
    if missing in ("", "None"):
        return f"{' '.join(str(error).split())} Fix: leave --config-path out; further folders are --config-dir=DIR"
    if not group:
        return (
            f"--config-name: there is no configuration '{missing}'. Allowed: none, each script has its own. "
            "Fix: leave it out; a named experiment is experiment=NAME"
        )
    if not folder.is_dir():
        return str(error).strip()
    return f"{group}: unknown choice '{choice}'.{did_you_mean(choice, choices(folder))}"


def _explain_value(error: BaseException, entry: str) -> str:
    key = str(getattr(error, "full_key", None) or getattr(error, "key", "") or "")
    owner = getattr(error, "object_type", None)
    text = str(getattr(error, "msg", None) or error).partition("\n")[0]
    if reference := re.search(r"Interpolation key '(.+)\.(.+?)' not found", text):
        return _explain_reference(error, key, reference[1], reference[2])
    if "is not in struct" in text or "not in '" in text or "not found" in text:
        schema = owner if isinstance(owner, type) and dataclasses.is_dataclass(owner) else SCHEMAS[f"{entry}_schema"]
        return f"unknown key '{key}'.{did_you_mean(key.rpartition('.')[2], _names(schema))}"
    if key == "ratio":
        quoted = re.search(r"'.*?'", text)
        return f"ratio: {f'got {quoted[0]}' if quoted else text}, allowed: {RATIO_RANGE}"
    return f"{key}: {_allowed(text)}" if key else _allowed(text)


def _explain_reference(error: BaseException, key: str, group: str, name: str) -> str:
    """Message for a reference to a missing value, such as the budget of an unknown protocol."""
    from omegaconf import DictConfig, OmegaConf

    parent = getattr(error, "parent_node", None)  # references of our own files are relative to it
    there = OmegaConf.select(parent, group) if isinstance(parent, DictConfig) else None
    if not isinstance(there, DictConfig):
        return f"{key}: taken from '{group}.{name}', which does not exist"
    place = f"{key.rpartition('.')[0]}.{group}"
    return f"{key}: taken from {place}, which has no '{name}'.{did_you_mean(name, map(str, there))}"


def _names(schema: type) -> list[str]:
    return [f.name for f in dataclasses.fields(schema)]


def _top_keys(entry: str, conf: Path) -> set[str]:
    """Settings and groups at the top of a script's configuration."""
    return {*_names(SCHEMAS[f"{entry}_schema"]), *groups_of(entry, conf)}


def _allowed(text: str) -> str:
    if "is not a ListConfig, list or tuple" in text:
        return "got a single value, allowed: a list. Fix: write it in brackets, KEY=[A,B]"
    if "is not Optional" in text:
        return "got null, allowed: a value of its type; a list without elements is []"
    if converted := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        kinds = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}
        return f"got '{converted[1]}', allowed: {kinds.get(converted[2], converted[2])}"
    return text


def _explain_override(text: str, entry: str, conf: Path) -> str:
    if unknown := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        return _explain_unknown(unknown[1], entry, conf)
    if several := re.match(r"Ambiguous value for argument '(.+?)=(.*)'", text):
        return (
            f"{several[1]}: got several values, '{several[2]}'. Fix: with -m each of them is a job (python {entry}.py "
            f"-m {several[1]}={several[2]}); a list is written [{several[2]}]; a decimal point is a point"
        )
    if missing := re.match(r"Error parsing override '(.*)'\nmissing EQUAL", text):
        return (
            f"got '{missing[1]}', allowed: KEY=VALUE or GROUP=CHOICE, without spaces around the '='. "
            f"Fix: python {entry}.py --help"
        )
    if "override_grammar" in text:
        return (
            f"the command line cannot be read: {text.partition(chr(10))[0]}. Fix: put a value with special characters "
            "into quotes that the shell leaves alone, 'KEY=\"VALUE\"'"
        )
    return text.strip()


def _explain_unknown(key: str, entry: str, conf: Path) -> str:
    """Message for a key that the script does not have, or a group at a place without one."""
    group, _, place = key.partition("@")
    places = _places(group, entry, conf) if (conf / group).is_dir() else {}
    if not places:
        name = group.partition(".")[0].partition("=")[0]
        return f"unknown key '{key}'.{did_you_mean(name, _top_keys(entry, conf))}"
    if owners := places.get(key):
        return f"{key}: the chosen {place.partition('.')[0]} has no such place. Allowed: with {', '.join(owners)}"
    wrong = f"no group '{group}' stands at '{place}'" if place else f"the group does not stand by itself in {entry}.py"
    return f"{key}: {wrong}. Allowed: {', '.join(f'{p}=CHOICE' for p in sorted(places))}"


def _places(group: str, entry: str, conf: Path) -> dict[str, list[str]]:
    """The places of a group in a script, as overridden (`model`, `model@reference.base`), with the choices that have
    the place; without choices if it always exists.
    """
    groups = groups_of(entry, conf)
    places: dict[str, list[str]] = {group: []} if group in groups else {}
    for file in [conf / f"{entry}.yaml", *sorted(f for g in groups for f in (conf / g).glob("*.yaml"))]:
        owner = "" if file.parent == conf else file.parent.name
        for name, place, _ in defaults_of(file):
            if name == group and place:
                owners = places.setdefault(f"{group}@{owner}{'.' * bool(owner)}{place}", [])
                owners += [f"{owner}={file.stem}"] * bool(owner)
    return places


def check_options(arguments: Sequence[str], entry: str) -> None:
    """Raise a `ConfigError` for an option that Hydra does not have, or with a wrong value."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}. Fix: python {entry}.py --help lists the options")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(list(arguments))


def check_dashes(arguments: Sequence[str], entry: str, conf: Path) -> None:
    """Raise a `ConfigError` for a setting with leading dashes."""
    names = _top_keys(entry, conf)
    for i, argument in enumerate(arguments):
        key, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and re.split(r"[.@]", key)[0] in names:
            value = value if equals else next((a for a in arguments[i + 1 : i + 2] if "=" not in a), "VALUE")
            raise ConfigError(f"got '{argument}', but settings are written without dashes. Fix: {key}={value}")


def check_plan_of_one(arguments: Sequence[str]) -> None:
    """Raise a `ConfigError` for `plan=true` in a multirun; a job refuses the `plan: true` of a file (`jobs.job`)."""
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    options = get_args_parser().parse_args(list(arguments))
    settings = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(options.overrides)}
    plan = settings.get("plan")
    if plan is None or not (options.multirun or "sweep" in settings):
        return
    values = plan.sweep_iterator() if plan.is_choice_sweep() else [plan.value()]
    if any(str(value).strip("'\"").lower() in ("true", "yes", "y", "on", "1") for value in values):
        several = "-m" if options.multirun else settings["sweep"].input_line
        raise ConfigError(f"plan=true plans one job, but '{several}' asks for several. {PLAN_FIX}")
