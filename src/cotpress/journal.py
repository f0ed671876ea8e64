"""Records of unfinished work, kept one by one as they come, so that an interrupted stage goes on where it stopped."""

import dataclasses
import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class Journal(Generic[R, K]):
    """An append-only file of one JSON line per record; a last line that a kill has torn is forgotten.

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
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        path.write_bytes(b"".join(whole))
        self._path, self._key = path, key
        self.done: dict[K, R] = {key(found): found for found in (record(**json.loads(line)) for line in whole)}

    def add(self, record: R) -> None:
        """Keep one more record."""
        self.done[self._key(record)] = record
        fields: dict[str, Any] = dataclasses.asdict(record)  # type: ignore[call-overload]
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(fields) + "\n")
