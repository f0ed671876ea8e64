"""Whether a checkpoint of an interrupted run can be gone on from."""

import logging
import zipfile
import zlib
from pathlib import Path

log = logging.getLogger(__name__)


def usable_checkpoint(path: Path) -> Path | None:
    """The checkpoint if it is there and whole, else None; a damaged one is removed, and the log says so.

    `torch.save` writes a zip with a checksum of every tensor, which `torch.load` does not look at.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        damaged = str(error)
    if damaged is None:
        return path
    log.warning("the checkpoint '%s' is damaged (%s): it is removed, and the training begins anew", path, damaged)
    path.unlink()
    return None
