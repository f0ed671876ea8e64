"""Where an interrupted training goes on."""

import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

from cotpress.errors import TrainingError

log = logging.getLogger(__name__)


def resume_point(checkpoint: Path) -> Path | None:
    """The checkpoint to go on from, None if there is none that is whole.

    It is opened here once (memory-mapped, so it costs no second copy of the weights) to tell what is wrong with one
    that cannot be used. Objects other than numbers, texts and containers are never unpickled from it.

    Raises:
        TrainingError: It holds other objects.
    """
    if not _is_whole(checkpoint):
        return None
    try:
        read_checkpoint(checkpoint)
    except Exception as error:  # pickle and torch each raise their own
        reason = str(error).partition("\n")[0].partition(". In PyTorch")[0]
        raise TrainingError(
            f"the checkpoint '{checkpoint}' cannot be used: it holds objects that could run code "
            f"({type(error).__name__}: {reason}). Fix: remove it; training then starts anew"
        ) from error
    return checkpoint


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, memory-mapped: the workers of a machine share its pages."""
    import torch

    checkpoint: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    return checkpoint


def _is_whole(path: Path) -> bool:
    """True if the checkpoint is there and whole; a damaged one is removed, and the log says so.

    `torch.save` writes a zip with a checksum of every tensor, which `torch.load` does not look at.
    """
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        damaged = str(error)
    if damaged is None:
        return True
    log.warning("the checkpoint '%s' is damaged (%s): it is removed, and the training begins anew", path, damaged)
    path.unlink(missing_ok=True)
    return False
