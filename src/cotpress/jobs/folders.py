"""Folders of logs that belong to one command at a time, also if several start in the same moment."""

import itertools
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"
_locks: list[FileLock] = []
"""The locks on the folders of this process."""
_made: dict[Path, Path] = {}
"""Folders that this process has locked and made, each with the highest folder that was made for it."""


def occupy(folder: Path) -> Path:
    """Lock a folder until `release`, or a new one beside it, `FOLDER-2`, while another command has it.

    Returns the locked folder. Where the disk has no place for a lock, it is the folder as it is: the command reports
    the disk as soon as it writes a result.
    """
    for number in itertools.count(1):
        own = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        missing = [place for place in (own, *own.parents) if not place.exists()]
        try:
            own.mkdir(parents=True, exist_ok=True)
            lock = FileLock(own / LOCK_FILE)
            lock.acquire(timeout=0)
        except Timeout:  # also an OSError
            continue
        except OSError:
            return folder
        _locks.append(lock)
        if missing:
            _made[own] = missing[-1]
        return own
    raise AssertionError


def remove(folder: Path) -> None:
    """Remove a folder that `occupy` has made, and the folders that were made for it as far as they are empty.

    A folder that was there before stays.
    """
    highest = _made.pop(folder, None)
    if highest is None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another command uses it
        for place in folder.parents[: len(folder.relative_to(highest).parts)]:
            place.rmdir()


def release() -> None:
    """Unlock the folders of this process."""
    while _locks:
        _locks.pop().release()
