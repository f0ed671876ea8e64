"""Every setting of a command, read from the classes of the configuration: its place, type and the choices that have it.

settings_of("train", conf)["data.path"].choices    # ("data=jsonl", "data=hub")
"""

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.config import SCHEMAS
from cotpress.scoring.table import SCORERS


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting or a group of them.

    Attributes:
        key: Its place on the command line, `sft.tune.epochs`.
        hint: Its type, with the rules that it is annotated with.
        choices: Choices of the group at its place that have it, `data=jsonl`; empty if it is always there.
    """

    key: str
    hint: Any
    choices: tuple[str, ...] = ()


@functools.cache
def settings_of(entry: str, conf: Path) -> dict[str, Setting]:
    """The settings of a script by their keys, in the order of its classes."""
    settings: dict[str, Setting] = {}
    for setting in _walk(SCHEMAS[f"{entry}_schema"], "", conf):
        settings.setdefault(setting.key, setting)
    return settings


def _walk(kind: type, place: str, conf: Path) -> Iterator[Setting]:
    for name, hint in _hints(kind).items():
        key = f"{place}.{name}" if place else name
        yield Setting(key, hint)
        inner, is_optional = _inside(hint)
        if inner is not None and not is_optional:
            yield from _walk(inner, key, conf)
        if inner is not None:
            yield from _of_choices(inner, key, conf, all_fields=is_optional)


def _of_choices(base: type, place: str, conf: Path, *, all_fields: bool) -> Iterator[Setting]:
    """The settings at a place that only some choices of its group have; with `all_fields` those of every choice."""
    schemas = SCHEMAS | {f"scorer/{name}_schema": entry.settings for name, entry in SCORERS.items()}
    fitting = {path: kind for path, kind in schemas.items() if "/" in path and issubclass(kind, base)}
    last = place.rpartition(".")[2]
    groups = {path.partition("/")[0]: None for path in fitting}
    group = last if last in groups else next(iter(groups), "")
    hints: dict[str, Any] = {}
    choices: dict[str, list[str]] = {}
    for path, kind in fitting.items():
        if path.startswith(f"{group}/"):
            for name, hint in _hints(kind).items():
                if not all_fields and name in _hints(base):
                    continue
                hints.setdefault(name, hint)
                choices.setdefault(name, []).extend(_chosen(path, place, conf))
    yield from (Setting(f"{place}.{name}", hints[name], tuple(choices[name])) for name in hints if choices[name])


def _chosen(path: str, place: str, conf: Path) -> Iterator[str]:
    """The choices, as typed, whose files name a schema: `data@labelled=jsonl`."""
    group, _, schema = path.partition("/")
    for file in sorted((conf / group).glob("*.yaml")):
        if re.search(rf"^ *- {schema}$", file.read_text(encoding="utf-8"), re.MULTILINE):
            yield f"{group}={file.stem}" if place == group else f"{group}@{place}={file.stem}"


def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _inside(hint: Any) -> tuple[type | None, bool]:
    """The dataclass that a type is or, if it is optional, may be; and True if it may be null."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if is_union else (hint,)
    kind = next((part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)), None)
    return kind, types.NoneType in parts
