"""Names that were read from a file, and where they may lead.

Manifests, results and notes of jobs may have come with somebody else's data. What they name must stay below the folder
that they stand in.
"""

import re
from pathlib import Path, PurePosixPath

from cotpress.errors import ArtifactError

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
