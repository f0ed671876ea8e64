"""Names of trained students: `output_root/students/NAME` links to the weights in an artifact.

A name belongs to the first artifact that takes it; another one of the same name has its hash added. Links are relative,
so that they hold in a copy of the output folder, and are never changed, so that a command finds its name again.
"""

import logging
import os
from pathlib import Path

from cotpress.store.artifacts import Artifact
from cotpress.store.paths import safe_name

log = logging.getLogger(__name__)

STUDENTS = "students"
"""Folder of the links below an output folder."""
_HASH_CHARS = 8


def name_student(name: str, student: Artifact, weights: Path) -> str:
    """Link `students/NAME` to the folder `weights` inside the artifact of a student, and return NAME.

    NAME is `name`, with the start of the artifact's fingerprint if another artifact has that name. Jobs may call this
    at the same time. On a file system without links the name stands for the folder of the artifact, which is logged.
    """
    root, plain = output_root_of(student), safe_name(name)
    hashed = f"{plain}-{student.fingerprint[:_HASH_CHARS]}"
    target = Path(os.path.relpath(weights, root / STUDENTS))
    for candidate in (hashed, plain):  # the longer one first, as it stays if the shorter one becomes free
        if _target(root, candidate) == target:
            return candidate
    for candidate in (plain, hashed):
        try:
            (root / STUDENTS).mkdir(exist_ok=True)
            (root / STUDENTS / candidate).symlink_to(target)
        except FileExistsError:  # another student, or this one by a job that runs at the same time
            if _target(root, candidate) == target:
                return candidate
        except OSError as error:
            log.warning(
                "students: cannot link '%s' to '%s': %s. The student lies in '%s'",
                root / STUDENTS / candidate, weights, error.strerror, weights,
            )  # fmt: skip
            return candidate
        else:
            return candidate
    log.warning("students: '%s' exists and is no link to '%s'", root / STUDENTS / hashed, weights)
    return hashed


def output_root_of(artifact: Artifact) -> Path:
    """The output folder that an artifact lies in."""
    return artifact.path.parents[2]


def student_folder(name: str, weights: Path, root: Path) -> Path:
    """The folder to show for a student: its link, or `weights` where that leads elsewhere or is missing."""
    link = root / STUDENTS / name
    return link if link.is_dir() and link.samefile(weights) else weights


def student_name(path: str) -> str | None:
    """Name of the student whose weights lie in a folder: its link, `artifacts/sft/HASH` or the folder of weights there.

    None for any other path.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        return None
    if folder.parent.name == STUDENTS and folder.is_symlink():
        return folder.name
    for root in folder.parents[2:4]:
        links = sorted((root / STUDENTS).glob("*")) if folder.is_relative_to(root / "artifacts") else []
        for link in links:
            if link.is_dir() and (link.samefile(folder) or link.resolve().parent == folder.resolve()):
                return link.name
    return None


def _target(root: Path, name: str) -> Path | None:
    link = root / STUDENTS / name
    return link.readlink() if link.is_symlink() else None
