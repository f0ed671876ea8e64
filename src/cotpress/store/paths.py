"""Names that were read from a file, and where they may lead.

Manifests, results and notes of jobs may have come with somebody else's data. What they name must stay below the folder
that they stand in.

What can be wrong with a disk, whoever notices it: full, over quota, read-only, not ours, broken.
"""

import contextlib
import errno
import os
import re
from pathlib import Path, PurePosixPath

from cotpress.errors import ArtifactError

_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ESTALE}
)
_IN_MESSAGE = re.compile(r"\(os error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
"""How libraries that are not written in Python tell the number: safetensors, and arrow where it loses the OSError."""
_TORCH = re.compile(
    r"iostream error|PytorchStreamWriter failed|inline_container.*(?:unexpected pos|file write failed)", re.DOTALL
)
"""torch tells no number: its writer found fewer bytes on disk than it had written."""
FIX = "Fix: choose a place that can be written and has room, with output_root=DIR (compress.py: also output=DIR)"


def disk_problem(error: BaseException) -> str | None:
    """What the disk refused, in the operating system's words; None if the error is about something else."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in _ERRNOS:
            return None
        return f"{os.strerror(error.errno)}{f': {error.filename}' if error.filename else ''}"
    if _TORCH.search(str(error)):
        return "a file of weights could not be written whole"
    found = _IN_MESSAGE.search(str(error))
    number = int(next(filter(None, found.groups()))) if found else None
    return os.strerror(number) if number in _ERRNOS else None


def require_writable(folder: Path, key: str) -> None:
    """Make a folder and a file in it, now rather than after hours of work.

    Args:
        folder: Where something will be written at the end.
        key: Setting that names it, for the message.

    Raises:
        ArtifactError: The disk refuses.
    """
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
        raise ArtifactError(f"{key}: '{folder}' cannot be written: {error.strerror}. Fix: {key}=DIR") from error


_KEY = re.compile(r"[a-z][a-z0-9_]*/[0-9a-f]{1,64}")
"""`stage/fingerprint`."""


def checked_key(key: object) -> str:
    """The key of an artifact, as it stands in results and manifests.

    Raises:
        ArtifactError: It is none, so that a path made of it could lead anywhere.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ArtifactError(f"got {key!r} as the name of an artifact, allowed: stage/fingerprint")
    return key


def stays_below(name: object) -> bool:
    """Whether a relative name leads to something below the folder that it is put after, whatever lies there."""
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts


def lies_below(path: Path, folder: Path) -> bool:
    """Whether a path, links followed, is a folder or something in it."""
    return path.resolve().is_relative_to(folder.resolve())
