"""What can be wrong with a disk, whoever notices it: full, over quota, read-only, not ours, broken."""

import contextlib
import errno
import os
import re
from pathlib import Path

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
