"""Results of unfinished work, kept as they arrive, so that an interrupted stage continues where it stopped."""

import dataclasses
import json
import logging
import os
import zlib
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cotpress.store.paths import unreadable

log = logging.getLogger(__name__)

R = TypeVar("R")


class Journal(UserDict[str, R]):
    """A dict whose items are also lines of an append-only file: a checksum, and JSON of the key and the record.

    A last line torn by a kill or a full disk is dropped. So is, with a warning, any other line that is not as it was
    written. The caller computes dropped records again. `record` is a dataclass with fields that JSON can hold, or a
    function that takes these fields.
    """

    def __init__(self, path: Path, record: Callable[..., R]) -> None:
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise unreadable(path, error) from error
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))  # rewriting the file instead could lose all of it in a kill
        self._path = path
        lines = whole.splitlines()
        items = [item for line in lines if (item := _item(line, record)) is not None]
        self.data.update(items)
        if damaged := len(lines) - len(items):
            log.warning("%d of %d records in '%s' are damaged and are computed again", damaged, len(lines), path)

    def __setitem__(self, key: str, record: R) -> None:
        """Keep a record, in memory and on disk."""
        fields: dict[str, Any] = dataclasses.asdict(record)  # type: ignore[call-overload]
        content = json.dumps([key, fields]).encode()
        with self._path.open("ab") as handle:
            handle.write(b"%s %s\n" % (_checksum(content), content))
        self.data[key] = record


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)


def _item(line: bytes, record: Callable[..., R]) -> tuple[str, R] | None:
    checksum, _, content = line.partition(b" ")
    if checksum != _checksum(content):
        return None
    try:
        key, fields = json.loads(content)
        return key, record(**fields)
    except (ValueError, TypeError):  # whole, but of another class
        return None
