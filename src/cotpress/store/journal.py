"""Records of unfinished work, kept one by one as they come, so that an interrupted stage goes on where it stopped."""

import dataclasses
import json
import logging
import os
import zlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class Journal(Generic[R, K]):
    """An append-only file of one line per record: a checksum and JSON.

    A last line that a kill or a full disk has torn is forgotten; so is, with a warning, any other line that is not what
    was written. What is forgotten is simply done again.

    Attributes:
        done: The records so far, by key.
    """

    def __init__(self, path: Path, record: Callable[..., R], key: Callable[[R], K]) -> None:
        """Read what an earlier call left.

        Args:
            path: The file; its folder is created.
            record: Dataclass of scalars, which makes a record of its fields.
            key: What identifies a record.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))  # never written anew: a kill in between would lose it all
        self._path, self._key = path, key
        lines = whole.splitlines()
        found = [_record(line, record) for line in lines]
        self.done: dict[K, R] = {key(one): one for one in found if one is not None}
        if damaged := found.count(None):
            log.warning("%d of %d records in '%s' are damaged and are made again", damaged, len(lines), path)

    def add(self, record: R) -> None:
        """Keep one more record."""
        self.done[self._key(record)] = record
        fields: dict[str, Any] = dataclasses.asdict(record)  # type: ignore[call-overload]
        content = json.dumps(fields).encode()
        with self._path.open("ab") as handle:
            handle.write(_checksum(content) + b" " + content + b"\n")


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)


def _record(line: bytes, record: Callable[..., R]) -> R | None:
    checksum, _, content = line.partition(b" ")
    return record(**json.loads(content)) if checksum == _checksum(content) else None
