"""Messages for the errors of Hydra and OmegaConf: the key, its value, the allowed values, the fix."""

import dataclasses
import re
import shlex
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cotpress.cli.help import choices, defaults_of, groups_of
from cotpress.cli.models import GROUP
from cotpress.config import SCHEMAS
from cotpress.errors import ConfigError, did_you_mean
from cotpress.invocation import as_typed, program
from cotpress.settings import RATIO_RANGE
from cotpress.tasks import PLAN_FIX, RUNS_ALONE

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

SCRIPTS = tuple(place.removesuffix("_schema") for place in SCHEMAS if "/" not in place)
"""Names of the entry scripts."""
_PARSERS = ("hydra", "omegaconf", "antlr4", "yaml")
"""Packages that only read command lines and configurations."""


def explain(error: BaseException, entry: str, conf: Path) -> str | None:
    """The message for an error of the configuration of a script, raised by Hydra; None for any other error."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return _explain_value(cause, entry, conf)
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
            f"with the name of a choice. Fix: {as_typed(entry)} --help"
        )
    return None


def _explain_choice(error: BaseException, conf: Path) -> str:
    missing = str(getattr(error, "missing_cfg_file", "")).removesuffix(".yaml")
    group, _, choice = missing.rpartition("/")
    folder = conf / group
    if missing in ("", "None"):
        problem = " ".join(str(error).split()).rstrip(".")
        return f"{problem}. Fix: leave --config-path out; further folders are --config-dir=DIR"
    if not group:
        return (
            f"--config-name: there is no configuration '{missing}'. Allowed: none, each script has its own. "
            "Fix: leave it out; a named experiment is experiment=NAME"
        )
    if not folder.is_dir() and not getattr(error, "options", None):
        return " ".join(str(error).split())
    return unknown_choice(group, choice, getattr(error, "options", None) or choices(folder))


def unknown_choice(group: str, choice: str, known: Iterable[str]) -> str:
    """Message for a choice that a group does not have."""
    names = [name for name in known if not name.endswith("_schema") and name not in SCRIPTS]
    message = f"{group}: unknown choice '{choice}'.{did_you_mean(choice, names)}"
    return f"{message} Others: a hub id, {GROUP}=OWNER/NAME, or a folder, {GROUP}=DIR" if group == GROUP else message


def _explain_value(error: BaseException, entry: str, conf: Path) -> str:
    from omegaconf.errors import GrammarParseError, InterpolationResolutionError

    key = str(getattr(error, "full_key", None) or getattr(error, "key", "") or "")
    owner = getattr(error, "object_type", None)
    text = str(getattr(error, "msg", None) or error).partition("\n")[0]
    if reference := re.search(r"Interpolation key '(.+)\.(.+?)' not found", text):
        return _explain_reference(error, key, reference[1], reference[2])
    if isinstance(error, InterpolationResolutionError | GrammarParseError):
        text = text.partition(" expecting {")[0].rpartition("while resolving interpolation: ")[2]
        fix = "a value, or a key that exists, ${KEY}"
        if variable := re.search(r"Environment variable '(.+)' not found", text):
            fix = f"set the variable, or give a value for its absence, ${{oc.env:{variable[1]},VALUE}}"
        return f"{key}: the value cannot be resolved: {text}. Fix: {fix}".removeprefix(": ")
    if "is not in struct" in text or "not in '" in text or "not found" in text:
        schema = owner if isinstance(owner, type) and dataclasses.is_dataclass(owner) else SCHEMAS[f"{entry}_schema"]
        return _unknown_key(key, _names(schema), entry, conf)
    if "Invalid type assigned: str" in text and (places := _groups_at(key, entry, conf)):
        return f"{key}: settings of its own. Fix: {', '.join(places)}"
    if key == "ratio":
        quoted = re.search(r"Value '(.*)'(?: of|$)", text)
        return f"ratio: got {repr(quoted[1]) if quoted else 'null'}, allowed: {RATIO_RANGE}"
    return f"{key}: {_allowed(text)}" if key else _allowed(text)


def _unknown_key(key: str, names: Iterable[str], entry: str, conf: Path) -> str:
    """Message for a key that does not exist where it stands, with the places where it does."""
    group, _, name = key.rpartition(".")
    owners = [f"{place.removesuffix('_schema')}".replace("/", "=") for place, schema in SCHEMAS.items()
              if group and place.startswith(f"{group}/") and name in _names(schema)]  # fmt: skip
    elsewhere = ""
    if owners:
        elsewhere = f" It is a setting of {', '.join(owners)}."
    elif group and name in _top_keys(entry, conf):
        elsewhere = f" It stands by itself: {name}=VALUE."
    elif scripts := [program(s) for s in SCRIPTS if not group and s != entry and name in _top_keys(s, conf)]:
        elsewhere = f" {program(entry)} does not have it, but {', '.join(scripts)}."
    return f"unknown key '{key}'.{elsewhere}{did_you_mean(name, names)}"


def _explain_reference(error: BaseException, key: str, group: str, name: str) -> str:
    """Message for a reference to a missing value, such as the budget of an unknown protocol."""
    from omegaconf import DictConfig, OmegaConf

    parent, whole = getattr(error, "parent_node", None), f"{group}.{name}"  # our own files refer relatively to it
    there = OmegaConf.select(parent, group) if isinstance(parent, DictConfig) else None
    while there is None and isinstance(parent, DictConfig) and "." in group:  # up to what exists
        group, _, name = group.rpartition(".")
        there = OmegaConf.select(parent, group)
    if not isinstance(there, DictConfig):
        return f"{key}: taken from '{whole}', which does not exist"
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
    if other := re.match(r"Invalid type assigned: .* is not a subclass of (\w+)\. value: (.*)", text):
        return f"got {other[2]}, allowed: the settings of {other[1]}, one by one, KEY.NAME=VALUE"
    if member := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", text):
        return f"got '{member[1]}', allowed: {member[2]}"
    if container := re.match(r"Cannot convert '(\w+)' to string", text):
        return f"got a {container[1]}, allowed: one text, in quotes where it has brackets"
    if boolean := re.match(r"Value '(.*)' is not a valid bool", text):
        return f"got '{boolean[1]}', allowed: true or false"
    if converted := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        kinds = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}
        return f"got '{converted[1]}', allowed: {kinds.get(converted[2], converted[2])}"
    return text


def _explain_override(text: str, entry: str, conf: Path) -> str:
    if existing := re.search(r"An item is already at '[^']+'.*?prefix: '([^']+)'", text, re.DOTALL):
        return f"'+{existing[1]}' adds a key that exists. Fix: {shlex.quote(existing[1])}"
    if existing := re.match(r"Multiple values for (\S+)\. .*'override (\S+?): ?(.*)'", text):
        return f"'+{existing[2]}={existing[3]}' adds a choice that exists. Fix: {existing[2]}={existing[3]}"
    if other := re.search(r"Could not delete from config\. The value of '([^']+)' is (.*) and not ", text):
        return f"~{other[1]}: its value is {other[2].strip()}. Fix: ~{other[1]}, without a value"
    if unknown := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        return _explain_unknown(unknown[1], entry, conf)
    if unknown := re.match(r"Override [+~]*([^=\s]+)\S* looks like a config group", text):
        return _explain_unknown(unknown[1], entry, conf)
    if several := re.match(r"Ambiguous value for argument '(.+?)=(.*)'", text):
        return (
            f"{several[1]}: got several values, '{several[2]}'. Fix: with -m each of them is a job ({as_typed(entry)} "
            f"-m {several[1]}={several[2]}); a list is written [{several[2]}]; a decimal point is a point"
        )
    if sweep := re.match(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"'{sweep[1]}' names several values, one for each job. Fix: {as_typed(entry)} -m {shlex.quote(sweep[1])}"
    return " ".join(text.split())


def _explain_unknown(key: str, entry: str, conf: Path) -> str:
    """Message for a key that the script does not have, or a group at a place without one."""
    group, _, place = key.partition("@")
    places = _places(group, entry, conf) if (conf / group).is_dir() else {}
    if not places and place and group in _top_keys(entry, conf):
        return f"{key}: only groups have a place, and '{group}' is none. Fix: {group}=VALUE"
    if not places:
        name = group.partition(".")[0].partition("=")[0]
        return _unknown_key(key if "." in key else name, _top_keys(entry, conf), entry, conf)
    if owners := places.get(key):
        return f"{key}: the chosen {place.partition('.')[0]} has no such place. Allowed: with {', '.join(owners)}"
    alone = f"the group does not stand by itself in {program(entry)}"
    wrong = f"no group '{group}' stands at '{place}'" if place else alone
    return f"{key}: {wrong}. Allowed: {', '.join(f'{p}=CHOICE' for p in sorted(places))}"


def _groups_at(place: str, entry: str, conf: Path) -> list[str]:
    """The groups that can stand at a place, as they are overridden: `data@labelled=CHOICE`."""
    groups = [folder.name for folder in sorted(conf.iterdir()) if folder.is_dir()]
    return [f"{p}=CHOICE" for group in groups for p in _places(group, entry, conf) if p == f"{group}@{place}"]


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
        raise ConfigError(f"{message.removeprefix('argument ')}. Fix: {as_typed(entry)} --help lists the options")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(list(arguments))


def check_dashes(arguments: Sequence[str], entry: str, conf: Path) -> None:
    """Raise a `ConfigError` for a setting with leading dashes."""
    names = _top_keys(entry, conf)
    for i, argument in enumerate(arguments):
        key, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and re.split(r"[.@]", key)[0] in names:
            value = value if equals else next((a for a in arguments[i + 1 : i + 2] if "=" not in a), "VALUE")
            raise ConfigError(f"got '{argument}', but settings are written without dashes. Fix: {key}={value}")


def check_plan_of_one(arguments: Sequence[str]) -> None:
    """Raise a `ConfigError` for `plan=true` in a multirun; a job refuses the `plan: true` of a file (`jobs.job`)."""
    settings, several = _several(arguments)
    plan = settings.get("plan")
    if plan is None or not several:
        return
    values = plan.sweep_iterator() if plan.is_choice_sweep() else [plan.value()]
    if any(str(value).strip("'\"").lower() in ("true", "yes", "y", "on", "1") for value in values):
        raise ConfigError(f"plan=true plans one job, but '{several}' asks for several. {PLAN_FIX}")


def check_runs_of_one(arguments: Sequence[str], entry: str) -> None:
    """Raise a `ConfigError` for `evaluate.py -m runs=DIR`, whose jobs would stay in reports as failed ones."""
    settings, several = _several(arguments)
    runs = settings.get("runs")
    if entry == "evaluate" and several and runs is not None and (runs.is_sweep_override() or runs.value() is not None):
        raise ConfigError(RUNS_ALONE)


def _several(arguments: Sequence[str]) -> "tuple[dict[str, Override], str]":
    """The settings of a command line by their keys, and what makes several jobs of it; empty for a single job."""
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    options = get_args_parser().parse_args(list(arguments))
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    settings = {o.key_or_group: o for o in overrides if o.key_or_group is not None}
    sweep = settings.get("sweep")
    return settings, "-m" if options.multirun else "" if sweep is None else str(sweep.input_line)
