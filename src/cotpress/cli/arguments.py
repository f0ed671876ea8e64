"""The command line before Hydra reads it: quotes where Hydra's grammar needs them, messages for what it cannot read.

A message ends with the text to type, which Hydra can read: every suggestion is parsed before it is shown.
"""

import os
import re
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cotpress.cli.help import choices, groups_of
from cotpress.cli.hints import MEANT, meant_by
from cotpress.errors import ConfigError, did_you_mean, raise_together
from cotpress.invocation import as_typed

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_WORD = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\$\{[^}]*\}|[^,\[\]{}()'"])+""")
"""A quoted text, or characters that separate nothing in a value, with interpolations."""
_UNKNOWN = re.compile(r"[^\w/+.$%*@?|:= \t\\-]|[^\x00-\x7f]")
"""Characters that Hydra's grammar does not have outside of quotes."""
_ADDED = re.compile(r"[\w.]+\+=")
"""Start of a setting that adds to a list."""
_REFERENCE = re.compile(r"\$\{[^}]*\}")
_PLACE = re.compile(r"\.columns\.\w+\Z")
"""Settings whose value is a place in the rows of a file."""
_CLOSED_BY = {"[": "]", "{": "}", "(": ")", "'": "'", '"': '"'}


def quoted(arguments: Sequence[str]) -> list[str]:
    """Put texts with characters that Hydra has no meaning for into quotes: `data.path=~/ü.jsonl`.

    The home directory is inserted for `~` in options and settings of Hydra (`--config-dir=~/conf`); in other settings
    it is inserted once their path fields are known (`settings.insert_home`).
    """
    done = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            value = os.path.expanduser(value)  # noqa: PTH111 (an unknown user is reported with the missing path)
        elif _PLACE.search(key) and "[" in value and value[:1] not in ("'", '"'):
            value = f"'{value}'"  # a place in a row, e.g. messages[-1].content
        elif "{" not in value.replace("${", ""):
            value = _WORD.sub(lambda word: _quoted(word[0], home=key.startswith("hydra.")), value)  # noqa: B023
        done.append(f"{key}{equals}{value}")
    return done


def _quoted(word: str, *, home: bool) -> str:
    text = word.strip()
    if (
        text[:1] in ("'", '"')
        or not _UNKNOWN.search(_REFERENCE.sub("", text))
        or "\\" in text
        or not text.isprintable()
    ):
        return word
    return word.replace(text, f"'{os.path.expanduser(text) if home else text}'")  # noqa: PTH111


def with_added(arguments: Sequence[str], entry: str, conf: Path) -> list[str]:
    """Replace `KEY+=A,B`, which adds to a list, by the whole list: `evaluation.baselines+=shortest`.

    The list is that of the other settings; of a setting with several values, that of the first one.

    Raises:
        ConfigError: The key is no list.
    """
    added = [argument for argument in arguments if _ADDED.match(argument)]
    if not added:
        return list(arguments)
    from omegaconf import ListConfig, OmegaConf

    from cotpress.cli.completion import composed

    others = [argument for argument in arguments if argument not in added]
    config, _ = composed(entry, conf, others)
    lists: dict[str, list[str]] = {}
    for argument in added:
        key, _, value = argument.partition("+=")
        current = OmegaConf.select(config, key)
        if not isinstance(current, ListConfig):
            raise ConfigError(f"'{argument}' adds to a list, and {key} is none. Fix: {key}={value}, or another key")
        elements = lists.setdefault(
            key, [element.name if isinstance(element, Enum) else str(element) for element in current]
        )
        elements += [part for part in value.strip("[]").split(",") if part not in elements]
    return [*others, *(f"{key}=[{','.join(elements)}]" for key, elements in lists.items())]


def options_first(arguments: Sequence[str]) -> list[str]:
    """Move options before all settings if they divide these, which Hydra does not read: `model=tiny -m ratio=0.5,0.7`.

    Arguments that cannot be read in this order either are left to `check_options`.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    with suppress(ConfigError):
        parser.parse_args(list(arguments))
        return list(arguments)
    try:
        settings: list[str] = parser.parse_intermixed_args(list(arguments)).overrides
    except ConfigError:
        return list(arguments)
    left, options = list(settings), []
    for argument in arguments:
        if left[:1] == [argument]:
            left.pop(0)
        else:
            options.append(argument)
    return [*options, *settings]


def without_null(arguments: Sequence[str], entry: str, conf: Path) -> list[str]:
    """Leave out the groups that are set to null and are null without a setting, such as `experiment=null`."""
    null = {group for group, choice in groups_of(entry, conf).items() if choice == "null"}
    keys = {argument: argument.partition("=")[0].lstrip("+") for argument in arguments}
    last = {keys[argument]: argument.partition("=")[2] for argument in arguments}
    return [a for a in arguments if not (keys[a] in null and "=" in a and last[keys[a]] == "null")]


def check_grammar(arguments: Sequence[str], entry: str, conf: Path) -> None:
    """Raise a `ConfigError` for a setting that Hydra cannot read, or a group whose value cannot name a choice."""
    from hydra._internal.utils import get_args_parser

    settings = get_args_parser().parse_args(list(arguments)).overrides
    values: set[int] = set()  # positions of words that are the values of the words before them
    problems = []
    for i, setting in enumerate(settings):
        if i in values:
            continue
        override = _parsed(setting)
        if override is None and "=" not in setting:
            values |= {i + 1, i + 2} if settings[i + 1 : i + 2] == ["="] else {i + 1}
        problem = _problem(setting, override, settings[i + 1 :], entry, conf)
        problems += [ConfigError(problem)] if problem else []
    raise_together(problems)


def _problem(setting: str, override: "Override | None", following: Sequence[str], entry: str, conf: Path) -> str | None:
    """The message for a setting and what Hydra reads in it; None if it is a setting."""
    if override is None:
        return _unreadable(setting, following, entry, conf)
    if override.key_or_group in ("", None):
        return f"'{setting}' has no key before the '='. Fix: KEY=VALUE, {as_typed(entry)} --help"
    if setting.startswith("+") and setting.lstrip("+").partition("=")[0] in groups_of(entry, conf):
        return f"'{setting}' adds a choice that exists. Fix: {shlex.quote(setting.lstrip('+'))}"
    folder = conf / override.key_or_group
    if folder.is_dir() and not override.is_delete() and not override.is_sweep_override():
        value = override.value()
        if isinstance(value, list) and len(value) > 1 and override.key_or_group not in ("experiment", "sweep"):
            return f"{override.key_or_group}: got {len(value)} choices, allowed: one. Fix: leave out all but one"
        if not isinstance(value, str | list):
            shown = "null" if value is None else f"'{setting.partition('=')[2]}'"
            return f"{override.key_or_group}: got {shown}.{did_you_mean(str(value), choices(folder))}"
    return None


def _parsed(setting: str) -> "Override | None":
    """The setting as Hydra reads it; None if it cannot."""
    from antlr4.error.Errors import RecognitionException  # type: ignore[import-untyped]
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_overrides([setting])[0]
    except (HydraException, RecognitionException, ValueError, RecursionError):
        return None


def _unreadable(setting: str, following: Sequence[str], entry: str, conf: Path) -> str:
    key = setting.partition("=")[0]
    wide = unicodedata.normalize("NFKC", setting)
    if wide != setting and _parsed(wide):
        return f"'{setting}' cannot be read: it has wide characters. Fix: {shlex.quote(wide)}"
    if "=" not in setting:
        value = following[1] if following[:1] == ["="] and len(following) > 1 else (following or ["="])[0]
        key, colon, after = map(str.strip, setting.partition(":"))
        fixes = [f"{key}={after}"] if colon else [f"{setting}={value.lstrip('=')}"] if "=" not in value[1:] else []
        if setting in MEANT and not colon and fixes and (meant := meant_by(key, value.lstrip("="), entry, conf)):
            return f"got '{setting}', allowed: KEY=VALUE.{meant}"
        fix = next((shlex.quote(f) for f in fixes if not f.endswith("=") and _parsed(f)), f"{as_typed(entry)} --help")
        return f"got '{setting}', allowed: KEY=VALUE or GROUP=CHOICE, without spaces around the '='. Fix: {fix}"
    parts = setting.split()
    if len(parts) > 1 and all(re.match(r"[+~]*[\w./@]+=.", part) and _parsed(part) for part in parts):
        return f"'{setting}' holds several settings, and each is an argument of its own. Fix: {' '.join(parts)}"
    invisible = next((c for c in setting if not c.isprintable() and c not in "\t\n"), None)
    if invisible is not None:
        return f"'{setting}' holds an invisible character, {invisible!a}. Fix: leave it out"
    suggestions = dict.fromkeys(_suggestions(setting)) if key.strip() else ()
    fix = next((shlex.quote(f) for f in suggestions if _parsed(f)), "")
    return f"'{setting}' cannot be read. Fix: {fix or f'KEY=VALUE, see {as_typed(entry)} --help'}"


def _suggestions(setting: str) -> Iterator[str]:
    """Readable settings that may be meant: without spaces or commas too many, with closed brackets, or with quotes."""
    key, _, value = setting.partition("=")
    key = re.sub(r"^\s*override\s+", "", key).strip().lstrip("/")
    value = value.strip()
    tidy = re.sub(r",\s*(?=[\]})]|$)", "", re.sub(r"^[\s=,]+|(?<=[,\[({])\s*,", "", value)).strip()
    bare = tidy.strip(" '\"")
    for text in (value, tidy, *([bare] * bare.isalnum()), value + _missing(value), tidy + _missing(tidy)):
        if text:
            yield f"{key}={text}"
    for quote in ('"', "'"):
        if quote not in value:
            yield f"{key}={quote}{value}{quote}"


def _missing(value: str) -> str:
    """The brackets and quotes that a value opens and does not close, as they would be closed."""
    closing = ""
    for sign in value:
        if closing[:1] in ("'", '"') and sign != closing[0]:
            continue
        if closing and sign == closing[0]:
            closing = closing[1:]
        elif sign in _CLOSED_BY:
            closing = _CLOSED_BY[sign] + closing
    return closing
