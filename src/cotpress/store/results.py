"""`results.json`: one JSON object with schema version and checksum, written and read in the same way by all tasks."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cotpress.errors import ArtifactError
from cotpress.records import RESULTS_FILE, Interval
from cotpress.store.artifacts import CHECKSUM, content_checksum, plain, write_text_atomic
from cotpress.store.paths import is_unreadable, unreadable
from cotpress.store.redaction import masked

R = TypeVar("R")

_VERSION = "schema_version"


def write_results_file(folder: Path, version: int, results: object, name: str = RESULTS_FILE) -> Path:
    """Write a dataclass or mapping as `results.json` (or `name`) into a folder, which is created if need be.

    Secrets are masked.

    Raises:
        ArtifactError: The folder cannot be written.
    """
    path = folder / name
    content = _finite({_VERSION: version, **masked(plain(results))})
    content[CHECKSUM] = content_checksum(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise ArtifactError(f"cannot write '{path}': {error}. Fix: output_root=DIR") from error
    return path


def read_results_file(
    folder: Path, versions: tuple[int, ...], build: Callable[[dict[str, Any]], R], name: str = RESULTS_FILE
) -> R:
    """Read a folder's `results.json` (or `name`) of one of some schema versions, and build its object from the values.

    Raises:
        ArtifactError: There is no `results.json`, or it is damaged or of another version.
    """
    path = folder / name
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        checksum, version = content.pop(CHECKSUM, None), content.get(_VERSION)
        if version not in versions:
            raise ArtifactError(f"'{path}' has schema version {version}, this release reads {versions}")
        if checksum != content_checksum(content) and not (checksum is None and version != versions[-1]):
            raise ValueError("its checksum differs")  # earlier versions had none
        del content[_VERSION]
        return checked(build(content))
    except FileNotFoundError as error:
        raise ArtifactError(f"'{folder}' holds no {name}: the run is not finished") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if is_unreadable(error):
            raise unreadable(path, error) from error
        raise ArtifactError(f"'{path}' is damaged: {error}. Fix: run the same command again") from error


def checked(record: R) -> R:
    """Return a dataclass that was built from the JSON of a file.

    Raises:
        ValueError: The value of a field, also of a dataclass inside, has not the type of the field.
    """
    hints = get_type_hints(type(record))
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if not _fits(value, hints[field.name]):
            raise ValueError(f"{field.name} has the value {value!r:.60}, allowed: {hints[field.name]}")
    return record


def _fits(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is Any:
        return True
    if kind is tuple:
        hints = inner[:1] * len(value) if inner[1:] == (...,) and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(hints) and all(map(_fits, value, hints))
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if kind in (int, float):  # JSON has one kind of number
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind) and (not dataclasses.is_dataclass(value) or checked(value) is value)


def read_interval(content: Mapping[str, Any] | None) -> Interval | None:
    """Return an interval from its JSON values, where null is an open end; None for None."""
    if content is None:
        return None
    ends = {"low": -math.inf, "high": math.inf}
    numbers: dict[str, Any] = {k: ends.get(k) if number is None else number for k, number in content.items()}
    return Interval(**numbers)


def _finite(value: Any) -> Any:
    """Return `value` as strict JSON: an open end of an interval becomes null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
