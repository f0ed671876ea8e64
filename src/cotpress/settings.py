"""Rules for the values of settings: written into the type of a field, checked by one walk over a configuration.

    epochs: Count = 3
    top_p: Annotated[float, interval("(0, 1]")] | None = None

OmegaConf sees only the plain type. Rules over several fields of a class stand in its method `validate(key)`, where
`key` is the place of the object on the command line, e.g. `sft.tune`.
"""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cotpress.errors import ConfigError, CotpressError, raise_together

_LARGEST = 2**63 - 1  # whole numbers end up in columns and random generators of 64 bits


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that an allowed value meets, and the `allowed` values in words."""

    holds: Callable[[Any], bool]
    allowed: str


def interval(text: str) -> Rule:
    """A rule for numbers, e.g. `[0, 1)`: a square bracket includes its end, a round one excludes it."""
    low, high = (float(end) for end in text[1:-1].split(","))

    def holds(value: float) -> bool:
        above = value >= low if text[0] == "[" else value > low
        return above and (value <= high if text[-1] == "]" else value < high)

    return Rule(holds, f"a number in {text}")


Count = Annotated[int, Rule(lambda number: number >= 1, "a whole number of at least 1")]
Natural = Annotated[int, Rule(lambda number: number >= 0, "a whole number of at least 0")]
Amount = Annotated[float, Rule(lambda number: number >= 0, "a number of at least 0")]
Positive = Annotated[float, Rule(lambda number: number > 0, "a number above 0")]
RATIO_RANGE = "a number in [0, 1], the fraction of the thinking tokens KEPT"
Ratio = Annotated[float, Rule(interval("[0, 1]").holds, RATIO_RANGE)]
PATH = Rule(lambda text: "\0" not in text, "a path")
"""Marks a text as a path; so do the name `path` and the type `Path` of a field."""
INPUT = Rule(lambda text: "\0" not in text, "the path of a file or folder")
"""Marks a path that may name something to read; see `input_paths`."""
Location = Annotated[str, PATH]
InputPath = Annotated[Location, INPUT]
Folder = Annotated[Location, Rule(lambda text: bool(text.strip()), "the path of a folder")]


def insert_home(settings: Any) -> None:
    """Replace `~` and `~USER` at the start of every path in a dataclass and those inside by the home directory."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if inside := [part for part in parts if dataclasses.is_dataclass(part)]:
            for part in inside:
                insert_home(part)
        elif field.name == "path" or not {PATH, Path}.isdisjoint(type_parts(hints[field.name])):
            setattr(settings, field.name, _with_home(value))


def _with_home(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_home(element) for element in value]
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value  # noqa: PTH111


def input_paths(settings: Any, key: str = "") -> Iterator[tuple[Any, str, str]]:
    """Yield owner, place and value of every field that may name something to read, at any depth.

    These are the fields of type `InputPath`, and for settings of plugins those of type `Path` and those named `path`.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value, place = getattr(settings, field.name), f"{key}.{field.name}" if key else field.name
        named = is_input(field.name, hints[field.name])
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            if dataclasses.is_dataclass(part):
                yield from input_paths(part, place)
            elif named and part:
                yield settings, place, str(part)


def is_input(name: str, hint: Any) -> bool:
    """True for a field, by name and type with its extras, that may name something to read."""
    parts = list(type_parts(hint))
    return INPUT in parts or Path in parts or (name == "path" and str in parts)


def type_parts(hint: Any) -> Iterator[Any]:
    """Yield a type, all types in it and the rules that it is annotated with."""
    yield hint
    for part in typing.get_args(hint):
        yield from type_parts(part)


_MOST_TOLD = 5
"""Most settings that a message about differences names."""


def differences(other: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Name the settings in which other JSON values differ from one's own: `ratio=0.7 instead of 0.5; ...`."""
    theirs, ours = dict(leaves(other)), dict(leaves(own))
    told = [
        f"{key}={theirs.get(key, 'missing')} instead of {ours.get(key, 'missing')}"
        for key in dict.fromkeys([*ours, *theirs])
        if theirs.get(key) != ours.get(key)
    ]
    more = [f"{len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else []
    return "; ".join([*told[:_MOST_TOLD], *more])


def leaves(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted key of every JSON value in a nested mapping, and its text as on the command line."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check_settings(settings: Any, key: str = "") -> None:
    """Check every value of a dataclass and those inside: numbers are finite, rules of fields hold, `validate` passes.

    `key` is its place, e.g. `sft.tune`; empty for a whole configuration.

    Raises:
        ConfigError: Names the key, its value and what is allowed; of several values, all of them.
        CotpressError: Another error of a `validate`, if it is the only problem.
    """
    raise_together(list(_problems_inside(settings, key)))


def _problems(value: Any, hint: Any, key: str, null: str = "") -> Iterator[CotpressError]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType) or hint in (None, Any):
        for kind in typing.get_args(hint) if value is not None else ():
            yield from _problems(value, kind, key, ", or null")
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            yield from _problems_inside(value, key)
        else:
            got = type(value) if dataclasses.is_dataclass(value) else value
            yield _not_allowed(key, got, f"settings of {hint.__name__}, one by one: {key}.NAME=VALUE{null}")
    elif typing.get_origin(hint) is Annotated:
        kind, *rules = typing.get_args(hint)
        yield from _problems(value, kind, key)
        for rule in rules:
            if not rule.holds(value):
                yield _not_allowed(key, value, rule.allowed + null + _fix(key, value, rule, null))
    elif list in (hint, typing.get_origin(hint)):
        if not isinstance(value, list):
            yield _not_allowed(key, value, f"a list, {key}=[A,B]{null}")
            return
        for element in value:
            yield from _problems(element, typing.get_args(hint)[0], key)
    elif isinstance(value, dict):
        for name, element in value.items():
            yield from _problems(element, typing.get_args(hint)[1], f"{key}.{name}")
    elif isinstance(value, float | int) and not abs(value) <= _LARGEST:
        yield ConfigError(f"{key}: got {value}, allowed: a finite number of at most 2^63 - 1")


def _fix(key: str, value: object, rule: Rule, null: str) -> str:
    """A sentence with the fraction that is meant by a number of percent, or with null for -1 (all, no limit); or none.

    `null` is empty for a setting that cannot be null.
    """
    if value == -1 and null:
        return f". Fix: {key}=null"
    is_percent = isinstance(value, float) and 1 < value <= 100 and rule.holds(value / 100)
    return f". Fix: {key}={value / 100:g}" if is_percent and isinstance(value, float) else ""


def _not_allowed(key: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{key}: got {value!r}, allowed: {allowed}")


def _problems_inside(settings: Any, key: str) -> Iterator[CotpressError]:
    """Yield the problems of the fields and, if these have none, that of `validate`, which relies on them."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    found: list[CotpressError] = []
    for field in dataclasses.fields(settings):
        place = f"{key}.{field.name}" if key else field.name
        found += _problems(getattr(settings, field.name), hints[field.name], place)
    yield from found
    if hasattr(settings, "validate") and not found:
        try:
            settings.validate(key)
        except CotpressError as error:
            yield error
