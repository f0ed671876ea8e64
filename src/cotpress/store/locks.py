"""Locks between processes, released by the kernel when their holder dies.

A piece of work is done by one process as a whole, or by several that each do a part of it and know nothing of each
other but the folder of the lock files.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

BRIEF_S = 0.5
"""A lock that is held for less is not worth a line in the log: those who do a part hold that of the whole to begin."""


class WorkLock:
    """The right to do one piece of work.

    Args:
        path: Lock file, `NAME.lock`; those of the parts lie beside it as `NAME.PART.lock`.
        stage: Of the work, for the log.
        key: Name of what is being made, for the log.
    """

    def __init__(self, path: Path, stage: str, key: str) -> None:
        self._path, self._stage, self._key = path, stage, key

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Held while nobody else works on it, neither on all of it nor on a part."""
        with self._held(FileLock(self._path), self._key):
            for path in sorted(self._path.parent.glob(f"{self._path.stem}.*.lock")):
                with self._held(FileLock(path), f"a part of {self._key}"):
                    pass
            yield

    @contextmanager
    def part(self, name: str, done: Callable[[], bool]) -> Iterator[bool]:
        """Held beside those who do parts of other names, and by nobody else; gives whether there is anything to do.

        Args:
            name: Of the part.
            done: Whether the whole is done; asked while nobody works on all of it.
        """
        own = FileLock(self._path.with_suffix(f".{name}.lock"))
        while True:
            with self._held(FileLock(self._path), self._key):  # nobody begins while the whole is at work
                finished = done()
                if finished or _acquired_at_once(own):
                    break
            with self._held(own, f"part {name} of {self._key}"):
                pass
        try:
            yield not finished
        finally:
            own.release()

    @contextmanager
    def _held(self, lock: FileLock, what: str) -> Iterator[None]:
        try:
            lock.acquire(timeout=BRIEF_S)
        except Timeout:
            log.info("%s: another job is computing %s; waiting for it", self._stage, what)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _acquired_at_once(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
