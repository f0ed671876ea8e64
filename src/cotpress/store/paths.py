"""Checks of paths: can the disk be written, and does a name read from a file stay in its folder.

Manifests, results and job notes may come from other people. The names in them must stay below the folder of the file.
"""

import contextlib
import errno
import os
import re
from pathlib import Path, PurePosixPath

from cotpress.errors import ArtifactError

FIX = "Fix: choose a place that can be written and has room, with output_root=DIR (compress.py: also output=DIR)"
_KEY = re.compile(r"[a-z][a-z0-9_]*/[0-9a-f]{1,64}")  # `stage/fingerprint`
_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ESTALE}
)
_IN_MESSAGE = re.compile(r"\(os error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
"""Error number in messages of safetensors, and of arrow where it does not raise an OSError."""
_TORCH = re.compile(
    r"iostream error|PytorchStreamWriter failed|inline_container.*(?:unexpected pos|file write failed)", re.DOTALL
)
"""Messages of torch without an error number: its writer found fewer bytes on disk than it had written."""


def disk_problem(error: BaseException) -> str | None:
    """The system's message for a disk that is full, over quota, read-only, not permitted or broken; None for others."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in _ERRNOS:
            return None
        return f"{os.strerror(error.errno)}{f': {error.filename}' if error.filename else ''}"
    if _TORCH.search(str(error)):
        return "a file of weights could not be written whole"
    match = _IN_MESSAGE.search(str(error))
    number = int(next(filter(None, match.groups()))) if match else None
    return os.strerror(number) if number in _ERRNOS else None


def require_writable(folder: Path, key: str) -> None:
    """Create a folder and a file in it, so that a refusal is reported before hours of work.

    Raises:
        ArtifactError: The folder, which the setting `key` names, cannot be written.
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


def checked_key(key: object) -> str:
    """Return an artifact key that was read from a file.

    Raises:
        ArtifactError: It is malformed, so that a path built from it could lead anywhere.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ArtifactError(f"got {key!r} as the name of an artifact, allowed: stage/fingerprint")
    return key


def stays_below(name: object) -> bool:
    """True if a relative name, appended to a folder, stays below it; links are not followed."""
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def lies_below(path: Path, folder: Path) -> bool:
    """True if a path, with links followed, is the folder or lies in it."""
    return path.resolve().is_relative_to(folder.resolve())
