"""Functions that tests run on several devices; workers can import them, unlike those of a test module."""

import errno
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from cotpress.devices.launch import here, join_process_group, report
from cotpress.devices.stopping import StopRequest, StopTraining
from cotpress.errors import DataError, MissingExtraError, TrainingError
from support.waiting import announce, wait_until

log = logging.getLogger("cotpress.test")


def places(offset: int) -> tuple[int, int, int]:
    """Return the place of the worker, and the result of a collective call over all workers."""
    place = here()
    if place.num_workers > 1:
        join_process_group(torch.device("cpu"))
        total = torch.tensor([place.rank + offset])
        torch.distributed.all_reduce(total)
        offset = int(total)
    log.info("rank %d is at work", place.rank)
    if not place.is_first:
        log.warning("careful with %s", {"a": 1})
    report(("rank", place.rank))
    return place.rank, place.num_workers, offset


def model_of_the_thread() -> dict[str, object]:
    """Return facts about a model that differ between threads, which are machines in some tests."""
    return {"model": {"directory": threading.current_thread().name, "dtype": "float32"}}


def no_model() -> dict[str, object]:
    """Fail as where a model is missing."""
    raise DataError("no such model")


def fails(kind: str) -> None:
    """Fail on rank 1 in the given way, or wait there for ever; the other workers wait for it."""
    join_process_group(torch.device("cpu"))
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
        case "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part-0")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(3)
        case "waits":
            torch.distributed.barrier()


def waits(folder: Path) -> None:
    """Write the process id to a file, then wait for a minute."""
    announce(folder / str(here().rank), str(os.getpid()))
    time.sleep(60)


def saves(folder: Path) -> None:
    """Write the process id to a file, wait for SIGTERM, then write another file after two seconds."""
    stop = StopRequest()
    with stop.noted():
        announce(folder / str(here().rank), str(os.getpid()))
        while not stop.agreed():
            time.sleep(0.05)
        time.sleep(2)
        (folder / f"saved-{here().rank}").touch()
        log.info("rank %d has saved", here().rank)
        raise StopTraining("saved")


def stops_together(folder: Path) -> None:
    """Send SIGTERM to the second worker at its third step, and write the number of steps that were begun to a file."""
    join_process_group(torch.device("cpu"))
    stop, step = StopRequest(), 0
    with stop.noted():
        while step < 100 and not stop.agreed():
            step += 1
            if step == 3 and not here().is_first:
                os.kill(os.getpid(), signal.SIGTERM)
        (folder / str(here().rank)).write_text(str(step))
        raise StopTraining("stopped")


def deterministic() -> tuple[bool, str | None]:
    """Return whether torch is to use deterministic algorithms, and cuBLAS's setting for them."""
    return torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")


def setting(name: str) -> tuple[str | None, str | None, int]:
    """Return a variable of the environment, the rank in it, and torch's number of threads."""
    return os.environ.get(name), os.environ.get("RANK"), torch.get_num_threads()


def stays_connected(folder: Path) -> tuple[int, int]:
    """Connect the workers, create a file named by the rank, and wait for the file `go`.

    Returns the modes of the file through which the workers find each other, and of its folder.
    """
    join_process_group(torch.device("cpu"))
    torch.distributed.barrier()
    meeting = Path(here().rendezvous)
    modes = meeting.stat().st_mode & 0o777, meeting.parent.stat().st_mode & 0o777
    (folder / str(here().rank)).touch()
    wait_until((folder / "go").exists, 120, "the file go")
    return modes
