"""Messages for the errors of Hydra and OmegaConf: the key, its value, the allowed values, the fix."""

import dataclasses
import re
import shlex
import traceback
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cotpress.cli.composing import folders_of, loader_of
from cotpress.cli.help import choices, defaults_of, groups_of
from cotpress.cli.hints import LAUNCHERS, SCRIPTS, VALUE, WORDS, choice_of_path, known_words, meant_by, meant_elsewhere
from cotpress.cli.models import GROUP
from cotpress.cli.schema import settings_of
from cotpress.config import SCHEMAS, USUAL_RATIO
from cotpress.errors import ConfigError, did_you_mean, numbered, raise_together
from cotpress.invocation import as_typed, program
from cotpress.plugins import CHOICES
from cotpress.settings import PATH, RATIO_RANGE, type_parts
from cotpress.tasks import PLAN_FIX, RUNS_ALONE

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_PARSERS = ("hydra", "omegaconf", "antlr4", "yaml")
"""Packages that only read command lines and configurations."""


PLUGGED = ("scorer", "data", "benchmark")
"""Groups with choices of plugins."""
_MOST_PROBLEMS = 20
"""Most problems of one command line that a message names."""


def explain_all(error: BaseException, arguments: Sequence[str], entry: str, conf: Path) -> str | None:
    """The message for an error of Hydra and for those that it would raise next, without the settings at fault.

    Returns None if it is no error of the configuration.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    problems: list[str] = []
    left: list[Override] | None = None
    while (problem := explain(error, entry, conf, arguments)) is not None and problem not in problems:
        problems.append(problem)
        if left is None:
            options = get_args_parser().parse_args(list(arguments))
            left = OverridesParser.create().parse_overrides(options.overrides)
            loader = loader_of(folders_of(arguments, left, conf))
        at_fault = _at_fault(error, left)
        if at_fault is None or len(problems) == _MOST_PROBLEMS:
            break
        left.remove(at_fault)
        try:
            texts = [_of_first_job(o) if options.multirun else str(o.input_line) for o in left]
            loader.load_configuration(entry, texts, RunMode.RUN)
        except Exception as following:
            error = following
        else:
            break
    return numbered(problems) if problems else None


def _of_first_job(override: "Override") -> str:
    """A setting of a multirun as its first job has it."""
    if not override.is_choice_sweep():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


def _at_fault(error: BaseException, overrides: "Sequence[Override]") -> "Override | None":
    """The setting of a command line that an error of Hydra is about; None if the error does not say it."""
    missing, texts = "", []
    cause: BaseException | None = error
    while cause is not None:
        missing = missing or str(getattr(cause, "missing_cfg_file", None) or "")
        texts.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(texts)
    for override in overrides:
        key = f"{override.key_or_group}{'' if override.package is None else f'@{override.package}'}"
        if missing:
            values = override.sweep_string_iterator() if override.is_choice_sweep() else [override._value]
            if missing in [f"{override.key_or_group}/{value}" for value in values]:
                return override
        elif any(part in text for part in (f"'{key}'", f"'{override.input_line}'", f"override {override.input_line}")):
            return override
    return None


def explain(error: BaseException, entry: str, conf: Path, arguments: Sequence[str] = ()) -> str | None:
    """The message for an error of the configuration of a script, raised by Hydra; None for any other error.

    Where the command line, `arguments`, holds the value of the key that is at fault, the message ends with it.
    """
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return _explain_value(cause, entry, conf, arguments)
        if isinstance(cause, MissingConfigException):
            return _explain_choice(cause, entry, conf, arguments)
        if cause.__cause__ is None and isinstance(cause, HydraException):
            return _explain_override(str(cause), entry, conf, arguments)
        cause = cause.__cause__
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and str(frames[-1].f_globals.get("__name__", "")).partition(".")[0] in _PARSERS:
        problem = str(error).partition("\n")[0].partition(" : Override(")[0]
        return (
            f"the command line cannot be read: {problem or type(error).__name__}. Allowed: KEY=VALUE, or GROUP=CHOICE "
            f"with the name of a choice. Fix: {as_typed(entry)} --help"
        )
    return None


def _value_of(key: str, arguments: Sequence[str]) -> str:
    """The value of a key on the command line, the last one; `VALUE` if it is not there or cannot be shown."""
    values = [a.partition("=")[2] for a in arguments if a.lstrip("+").partition("=")[0] == key and "=" in a]
    if not values or not values[-1].isprintable():
        return VALUE
    plain = re.fullmatch(r"'([^',\s]*)'", values[-1])  # quotes of `arguments.quoted`, which adds them again
    return plain[1] if plain else values[-1]


def _explain_choice(error: BaseException, entry: str, conf: Path, arguments: Sequence[str]) -> str:
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
    top, _, value = missing.partition("/")
    if (conf / top).is_dir():
        typed = [a.partition("=")[0] for a in arguments if a.startswith(top) and value in a.partition("=")[2]]
        place = typed[-1] if typed else top
        if path := choice_of_path(place, value, entry, conf):
            return f"{place}: unknown choice '{value}'. Fix: {path}"
        if top == "hydra":  # group `hydra/launcher`
            group, _, choice = missing.rpartition("/")
        elif top != group:
            group, choice, folder = top, value, conf / top
    if not folder.is_dir() and not getattr(error, "options", None):
        return " ".join(str(error).split())
    return unknown_choice(group, choice, getattr(error, "options", None) or choices(folder))


def unknown_choice(group: str, choice: str, known: Iterable[str]) -> str:
    """Message for a choice that a group does not have."""
    names = [name for name in known if not name.endswith("_schema") and name not in SCRIPTS]
    if group == "hydra/launcher" and LAUNCHERS.get(choice) in names:
        return f"{group}: unknown choice '{choice}'. Fix: {group}={LAUNCHERS[choice]}"
    message = f"{group}: unknown choice '{choice}'.{did_you_mean(choice, names)}"
    if group in PLUGGED and " Did you mean " not in message and not CHOICES.get(group):
        return f"{message} One of your own: plugins=[MODULE], or in Python import MODULE"
    return f"{message} Others: a hub id, {GROUP}=OWNER/NAME, or a folder, {GROUP}=DIR" if group == GROUP else message


def _explain_value(error: BaseException, entry: str, conf: Path, arguments: Sequence[str]) -> str:
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
        return _unknown_key(key, _names(schema), entry, conf, arguments)
    if "Invalid type assigned: str" in text and (places := _groups_at(key, entry, conf)):
        return f"{key}: settings of its own. Fix: {', '.join(places)}"
    quoted = re.search(r"(?:Value|value) '(.*?)'(?: of|$|, expected| is not)", text)
    fix = _meant_value(key, quoted[1]) if quoted else ""
    if key == "ratio":
        if not quoted:
            fix = f" Fix: leave it out for {USUAL_RATIO:g}, or ratio=1 to keep every token"
        return f"ratio: got {repr(quoted[1]) if quoted else 'null'}, allowed: {RATIO_RANGE}{fix and f'.{fix}'}"
    return f"{key}: {_allowed(text)}{fix and f'.{fix}'}" if key else _allowed(text)


def _meant_value(key: str, value: str) -> str:
    """A sentence with the value that is meant by a wrong one, such as `70%`; empty if none is known."""
    word = WORDS.get(key.rpartition(".")[2], {}).get(value.lower())
    if percent := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value):
        word = f"{float(percent[1]) / 100:g}"
    return f" Fix: {key}={word}" if word else ""


def _unknown_key(key: str, names: Iterable[str], entry: str, conf: Path, arguments: Sequence[str]) -> str:
    """Message for a key that does not exist where it stands, with what is meant by it."""
    value = _value_of(key, arguments)
    chosen = [argument.lstrip("+") for argument in arguments if "=" in argument]
    meant = meant_by(key, value, entry, conf, chosen)
    if "Fix: " in meant or "Allowed: " in meant:
        return f"unknown key '{key}'.{meant}"
    elsewhere = meant or meant_elsewhere(key, value, entry, conf)
    return f"unknown key '{key}'.{elsewhere}{did_you_mean(key.rpartition('.')[2], names)}"


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


def _explain_override(text: str, entry: str, conf: Path, arguments: Sequence[str]) -> str:
    if existing := re.search(r"An item is already at '[^']+'.*?prefix: '([^']+)'", text, re.DOTALL):
        return f"'+{existing[1]}' adds a key that exists. Fix: {shlex.quote(existing[1])}"
    if existing := re.match(r"Multiple values for (\S+)\. .*'override (\S+?): ?(.*)'", text):
        return f"'+{existing[2]}={existing[3]}' adds a choice that exists. Fix: {existing[2]}={existing[3]}"
    if other := re.search(r"Could not delete from config\. The value of '([^']+)' is (.*) and not ", text):
        return f"~{other[1]}: its value is {other[2].strip()}. Fix: ~{other[1]}, without a value"
    if unknown := re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text):
        return _explain_unknown(unknown[1], entry, conf, arguments)
    if unknown := re.match(r"Override [+~]*([^=\s]+)\S* looks like a config group", text):
        return _explain_unknown(unknown[1], entry, conf, arguments)
    if several := re.match(r"Ambiguous value for argument '(.+?)=(.*)'", text):
        return _explain_commas(several[1], several[2], entry, conf)
    if sweep := re.match(r"Sweep parameters '(.+)' requires --multirun", text):
        return f"'{sweep[1]}' names several values, one for each job. Fix: {as_typed(entry)} -m {shlex.quote(sweep[1])}"
    return " ".join(text.split())


def _explain_commas(key: str, value: str, entry: str, conf: Path) -> str:
    """Message for a value with commas in a command of one job."""
    setting = settings_of(entry, conf).get(key)
    parts = [] if setting is None else list(type_parts(setting.hint))
    quoted = shlex.quote(f'{key}="{value}"')
    fix = ""
    if PATH in parts:
        fix = f"{quoted} for one path with a comma; "
    elif any(typing.get_origin(part) is list for part in parts):
        fix = f"{shlex.quote(f'{key}=[{value}]')} for a list; "
    elif str in parts:
        fix = f"{quoted} for one text with a comma; "
    elif float in parts and re.fullmatch(r"\d+,\d+", value):
        fix = f"{key}={value.replace(',', '.')}, with a decimal point; "
    several = f"{as_typed(entry)} -m {shlex.quote(f'{key}={value}')}"
    return f"{key}: got several values, '{value}'. Fix: {fix}with -m each of them is a job ({several})"


def _explain_unknown(key: str, entry: str, conf: Path, arguments: Sequence[str]) -> str:
    """Message for a key that the script does not have, or a group at a place without one."""
    group, _, place = key.partition("@")
    places = _places(group, entry, conf) if (conf / group).is_dir() else {}
    if not places and place and group in _top_keys(entry, conf):
        return f"{key}: only groups have a place, and '{group}' is none. Fix: {group}=VALUE"
    if not places:
        name = group.partition(".")[0].partition("=")[0]
        return _unknown_key(key if "." in key else name, _top_keys(entry, conf), entry, conf, arguments)
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


def check_added(arguments: Sequence[str], entry: str, conf: Path) -> None:
    """Raise a `ConfigError` for `+KEY=VALUE` with keys that no script can have; it names all of them."""
    problems = []
    for argument in arguments:
        key, equals, _ = argument.lstrip("+").partition("=")
        is_new = re.fullmatch(r"\w+", key) and key not in _top_keys(entry, conf)
        if argument.startswith("+") and equals and is_new:
            problem = _unknown_key(key, _top_keys(entry, conf), entry, conf, arguments)
            problems.append(ConfigError(problem))
    raise_together(problems)


def check_dashes(arguments: Sequence[str], entry: str, conf: Path) -> None:
    """Raise a `ConfigError` for settings with leading dashes; it names all of them."""
    from hydra._internal.utils import get_args_parser

    if not any(argument.startswith("-") for argument in arguments):
        return
    options = get_args_parser()._option_string_actions
    names, words = _top_keys(entry, conf), known_words(entry, conf)
    problems = []
    for i, argument in enumerate(arguments):
        key, equals, value = argument.lstrip("-").partition("=")
        plain = key.lower().replace("-", "_")
        is_setting = re.split(r"[.@]", key)[0] in names or plain in words
        if not argument.startswith("-") or argument.partition("=")[0] in options or not is_setting:
            continue
        following = next((a for a in arguments[i + 1 : i + 2] if "=" not in a and not a.startswith("--")), VALUE)
        value = value if equals else following
        problem = f"got '{argument}', but settings are written without dashes."
        known = re.split(r"[.@]", key)[0] in names
        meant = "" if known else meant_by(key, value, entry, conf) or meant_elsewhere(key, value, entry, conf)
        path = choice_of_path(key, value, entry, conf) if known and (conf / key).is_dir() else ""
        fix = path or f"{key}={value}"
        problems.append(ConfigError(f"{problem}{meant or f' Fix: {fix}'}"))
    raise_together(problems)


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


def check_launcher_of_one(arguments: Sequence[str], entry: str) -> None:
    """Raise a `ConfigError` for a launcher of a command that is one job, which Hydra would run here without a word."""
    settings, several = _several(arguments)
    launcher = settings.get("hydra/launcher")
    several = several or ("-m" if "hydra.mode" in settings else "")
    if launcher is not None and not several and launcher.value() not in ("basic", None):
        raise ConfigError(
            f"{launcher.input_line} starts the jobs of a multirun, and this command is a single job, which would run "
            f"in this process. Fix: {as_typed(entry)} -m {launcher.input_line} ..., for a single job as well"
        )


def check_outputs(arguments: Sequence[str]) -> None:
    """Raise a `ConfigError` for an `output` with references of a multirun whose jobs would share a folder."""
    settings, several = _several(arguments)
    output = settings.get("output")
    if not several or output is None or output.is_sweep_override():
        return
    value = str(output.value())
    named = re.findall(r"\$\{([\w.@/]+)\}", value)
    if "${" not in value or re.search(r"\$\{\w+:", value):  # a resolver, such as ${hydra:job.num}, differs by itself
        return
    swept = [setting.package or key for key, setting in settings.items() if setting.is_sweep_override()]
    missing = [
        key
        for key in swept
        if key != "shard" and not any(f"{n}.".startswith(f"{key}.") or key.startswith(f"{n}.") for n in named)
    ]
    if missing:
        folder = value.partition("${")[0].rstrip("/-_.") or "DIR"
        raise ConfigError(
            f"output: '{value}' names one place for jobs that differ in {' and '.join(missing)}. Fix: output={folder}, "
            "in which each job gets a place of its own"
        )


def _several(arguments: Sequence[str]) -> "tuple[dict[str, Override], str]":
    """The settings of a command line by their keys, and what makes several jobs of it; empty for a single job."""
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    options = get_args_parser().parse_args(list(arguments))
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    settings = {o.key_or_group: o for o in overrides if o.key_or_group is not None}
    sweep = settings.get("sweep")
    return settings, "-m" if options.multirun else "" if sweep is None else str(sweep.input_line)
