"""Folders of logs that belong to one command at a time, also if several start in the same moment."""

import itertools
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"
_locks: list[FileLock] = []
"""The locks on the folders of this process."""


def occupy(folder: Path) -> Path:
    """Lock a folder until `release`, or a new one beside it, `FOLDER-2`, while another command has it.

    Returns the locked folder. Where the disk has no place for a lock, it is the folder as it is: the command reports
    the disk as soon as it writes a result.
    """
    for number in itertools.count(1):
        own = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            own.mkdir(parents=True, exist_ok=True)
            lock = FileLock(own / LOCK_FILE)
            lock.acquire(timeout=0)
        except Timeout:  # also an OSError
            continue
        except OSError:
            return folder
        _locks.append(lock)
        return own
    raise AssertionError


def release() -> None:
    """Unlock the folders of this process."""
    while _locks:
        _locks.pop().release()
