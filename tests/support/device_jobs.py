"""Functions that tests call on several devices; importable in the workers, unlike a test module."""

import logging
import os
import signal
import sys
import time
from pathlib import Path

import torch

from cotpress.devices.place import here, report
from cotpress.errors import MissingExtraError, TrainingError

log = logging.getLogger("cotpress.test")


def places(offset: int) -> tuple[int, int, int, int]:
    """Where each worker is, and what a collective call over all of them gives."""
    place = here()
    if place.num_workers > 1:
        torch.distributed.init_process_group("gloo")
        total = torch.tensor([place.rank + offset])
        torch.distributed.all_reduce(total)
        offset = int(total)
    log.info("rank %d is at work", place.rank)
    if not place.is_first:
        log.warning("careful with %s", {"a": 1})
    report(("rank", place.rank))
    return place.rank, place.local_rank, place.num_workers, offset


def fails(kind: str) -> None:
    """Rank 1 fails in the way that is asked for; the others wait for it."""
    torch.distributed.init_process_group("gloo")
    if here().is_first:
        torch.distributed.barrier()
        return
    match kind:
        case "for users":
            raise TrainingError("the loss is not finite")
        case "odd constructor":
            raise MissingExtraError("a", "b", "c")
        case "defect":
            raise ZeroDivisionError("by nothing")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(3)


def waits(folder: Path) -> None:
    """Say that it is there, then wait for a minute."""
    (folder / str(here().rank)).write_text(str(os.getpid()))
    time.sleep(60)


def setting(name: str) -> tuple[str | None, str | None, int]:
    """A variable of the environment, the rank in it, and torch's threads."""
    return os.environ.get(name), os.environ.get("RANK"), torch.get_num_threads()
