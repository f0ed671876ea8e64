"""Names and checks of paths: one part of a path from any text, errors of the disk, names that were read from a file.

Manifests, results and job notes may come from other people. The names in them must stay below the folder of the file.
"""

import difflib
import errno
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeGuard

from cotpress.errors import ArtifactError, ConfigError, UnreadableError

FIX = "Fix: choose a place that can be written and has room, with output_root=DIR (compress: also output=DIR)"
HUB_SCHEME = "hf://"
"""Start of an address on the Hugging Face hub, e.g. `hf://owner/name`."""
_MOST_FILES = 100_000
"""Most files of a folder with input; adapters, models and data sets have fewer."""
NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
FIX_FILES = "Fix: allow more open files (ulimit -n)"
_KEY = re.compile(r"[a-z][a-z0-9_]*/[0-9a-f]{1,64}")  # `stage/fingerprint`
_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ESTALE}
)
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Numbers of errors that say something about what lies at a path; all others are about the access to it."""
_NEARBY = 12
"""Most names in a message."""
_NAME_BYTES = 200
"""Most bytes of a name: file systems allow 255, and a fingerprint and the suffix of a temporary file are added."""
_IN_MESSAGE = re.compile(r"\(os error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
"""Error number in messages of safetensors, and of arrow where it does not raise an OSError."""
_TORCH = re.compile(
    r"iostream error|PytorchStreamWriter failed|inline_container.*(?:unexpected pos|file write failed)", re.DOTALL
)
"""Messages of torch without an error number: its writer found fewer bytes on disk than it had written."""


def hub_address(address: str) -> tuple[str, str | None]:
    """Hub id and revision of a data set: `hf://owner/name`, `hf://datasets/owner/name@revision` or `owner/name`."""
    name, _, revision = address.removeprefix(HUB_SCHEME).removeprefix("datasets/").partition("@")
    return name, revision or None


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


def is_unreadable(error: BaseException) -> TypeGuard[OSError]:
    """True if the system refused to read; false if a file is missing or a library found its content wrong."""
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _ABSENT


def unreadable(path: Path, error: BaseException) -> UnreadableError:
    """The error of a file that exists but that the system does not hand out."""
    number = error.errno if isinstance(error, OSError) else None
    reason = str(error) if number is None else os.strerror(number)
    fix = FIX_FILES if number in NO_FILES else "Fix: ask the owner of the file or the administrator of the disk"
    return UnreadableError(f"'{path}' cannot be read: {reason}. It was left as it is. {fix}")


def require_writable(folder: Path, key: str) -> None:
    """Create a folder and a file in it, so that a refusal is reported before hours of work.

    Raises:
        ArtifactError: The folder, which the setting `key` names, cannot be written.
    """
    try:
        probe_writing(folder)
    except OSError as error:
        raise ArtifactError(f"{key}: '{folder}' cannot be written: {error.strerror}. Fix: {key}=DIR") from error


def probe_writing(folder: Path) -> None:
    """Create a folder and write a file in it that has no name, so that nothing can be left; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()


def safe_name(name: str, *, unsafe: str = r"[^\w.-]", replacement: str = "-", num_bytes: int = _NAME_BYTES) -> str:
    """Convert `name` to one part of a path; different names give different parts.

    A hash of `name` is added if a character was replaced (those that the pattern `unsafe` matches) or the end cut off.
    """
    kept = re.sub(unsafe, replacement, name)
    if kept == name and len(kept.encode()) <= num_bytes and kept not in ("", ".", ".."):
        return kept
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    start = kept.encode()[: num_bytes - len(digest) - 1].decode(errors="ignore")
    return f"{start}-{digest}"


def files_below(folder: Path, key: str) -> list[Path]:
    """Files in a folder that a setting names, at any depth, in order; folders that are links are left out.

    Raises:
        ConfigError: There are so many that the setting, `key`, hardly means this folder.
        OSError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    files = (Path(place, name) for place, _, names in os.walk(folder, onerror=refuse) for name in names)
    paths = list(itertools.islice(files, _MOST_FILES + 1))
    if len(paths) > _MOST_FILES:
        raise ConfigError(
            f"{key}: '{folder}' is a folder with more than {_MOST_FILES} files, allowed: the file or folder that is to "
            f"be read. Fix: {key}=PATH"
        )
    return sorted(path for path in paths if path.is_file())


def is_pattern(path: Path) -> bool:
    """True for a path that does not exist and has `*`, `?` or `[` in it."""
    return any(mark in str(path) for mark in "*?[") and not path.exists()


def matching(pattern: Path) -> list[Path]:
    """Files and folders that match a pattern, in order; `**` stands for folders at any depth, links left out.

    The parts at its start that exist as they are written are no patterns, such as a folder named `[1]`.
    """
    folder = Path(pattern.anchor)
    parts = list(pattern.parts[1:] if pattern.anchor else pattern.parts)
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    try:
        return sorted(folder.glob("/".join(parts))) if parts else [folder]
    except (ValueError, NotImplementedError):  # no pattern, such as `a**b`
        return []


def neighbours(path: Path, fits: Callable[[Path], bool] = Path.is_dir) -> str:
    """Sentences for a message about a path at which there is nothing; empty if there is nothing beside it either.

    They say what the nearest folder holds, and a name that is nearly that of the path, if it is no pattern.

    Args:
        path: The path.
        fits: True for what could be meant.
    """
    folder = next((p for p in path.absolute().parents if p.is_dir()), Path())
    with suppress(OSError):
        names = sorted(p.name.encode("utf-8", "backslashreplace").decode() for p in folder.iterdir() if fits(p))
        close = [] if not names or is_pattern(path) else difflib.get_close_matches(path.name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        more = f" and {len(names) - _NEARBY} more" if len(names) > _NEARBY else ""
        return f"{hint} '{folder}' holds {', '.join(names[:_NEARBY])}{more}." if names else ""
    return ""


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
