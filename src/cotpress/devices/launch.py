"""The device of this process, and work on several devices: one worker process per device, watched by its stage."""

import datetime
import logging
import logging.handlers
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cotpress.devices import processes
from cotpress.devices.config import TrainerConfig
from cotpress.devices.processes import Child, follow, stopping
from cotpress.errors import ConfigError, WorkerError

log = logging.getLogger(__name__)


def pick_device(config: TrainerConfig) -> torch.device:
    """The device of this process: its own GPU (`LOCAL_RANK`) or the CPU; an error if a GPU is set and there is none."""
    has_gpu = torch.cuda.is_available()
    if config.accelerator in ("gpu", "cuda") and not has_gpu:
        raise ConfigError("trainer.accelerator: got 'gpu', but torch sees no GPU. Fix: trainer=cpu")
    if config.accelerator == "cpu" or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def set_up_torch(config: TrainerConfig) -> None:
    """Apply `trainer.num_threads` and `trainer.deterministic` to this process.

    torch raises an error that names an operation without a deterministic algorithm; docs/determinism.md lists the
    limits.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


OnMessage = Callable[[Any], None]
"""Called with the messages that workers `report`, those of each worker in their order."""

_PRELOAD = ("cotpress.devices.lightning", "peft", "transformers.models.auto.modeling_auto")
"""Modules that most functions need. Importing them does nothing with a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of a process among the workers of this machine that share a piece of work."""

    rank: int = 0
    """Number among the workers, from 0; also the number of its device."""
    num_workers: int = 1
    rendezvous: str = ""
    """File through which the workers find each other; empty for a single one."""

    @property
    def is_first(self) -> bool:
        """True for the worker of rank 0, which saves, logs and reports for all."""
        return self.rank == 0


_place = Place()
_on_message: OnMessage | None = None


def here() -> Place:
    """The place of this process; outside of `run_on_devices` that of a single worker."""
    return _place


def report(message: Any) -> None:
    """Send a small, picklable message to the caller of `run_on_devices`."""
    if _on_message is not None:
        _on_message(message)


@contextmanager
def _working_at(place: Place, on_message: OnMessage | None) -> Iterator[None]:
    """Make this process one of the workers until the block ends."""
    global _place, _on_message
    before = _place, _on_message
    _place, _on_message = place, on_message
    try:
        yield
    finally:
        _place, _on_message = before


def num_local_devices(trainer: TrainerConfig) -> int:
    """The number of devices of this machine that `trainer.devices` selects; an error if it has fewer GPUs."""
    if pick_device(trainer).type == "cpu":
        return trainer.devices or 1
    present = torch.cuda.device_count()
    if trainer.devices is not None and trainer.devices > present:
        raise ConfigError(f"trainer.devices: got {trainer.devices}, but torch sees {present} GPUs. Fix: fewer, or null")
    return trainer.devices or present


def run_on_devices(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    trainer: TrainerConfig,
    on_message: OnMessage | None = None,
) -> list[Any]:
    """Call `function(*arguments)` once per device of this machine, and wait for all of them.

    One device is a plain call in this process. Several are processes of their own, in which `here` gives the place,
    `report` sends messages to `on_message`, and `join_process_group` connects the workers; the variables of
    `torch.distributed` (RANK, WORLD_SIZE, ...) are set. Log records of the first worker, and warnings of all, go to the
    log of this process.

    Args:
        function: A function of a module, so that it can be pickled.
        arguments: Picklable, as are the results.
        trainer: Number and kind of the devices.
        on_message: Called in this thread with the messages.

    Returns:
        The results by rank.

    Raises:
        CotpressError: The error of the worker that failed first.
        WorkerError: A worker was killed, or failed by a defect, whose traceback is in the log.
        KeyboardInterrupt: This process was interrupted; the workers have been stopped.
        Terminated: SIGTERM has reached this process or a worker; a training has saved a checkpoint.
    """
    count = num_local_devices(trainer)
    if count == 1:
        with _working_at(Place(), on_message):
            return [function(*arguments)]
    num_threads = trainer.num_threads or max(1, (os.cpu_count() or 1) // count)
    log.info("%d workers, one per device", count)
    workers: list[Child] = []
    # torch and Lightning read the place of a worker from these variables.
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}

    def take(message: Any) -> None:
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif on_message is not None:
            on_message(message)

    with tempfile.TemporaryDirectory(prefix="cotpress-", ignore_cleanup_errors=True) as folder, _sigterm_raises():
        Path(folder, "rendezvous").touch(mode=0o600)  # as is its folder; torch would follow the umask
        with stopping(workers):
            for rank in range(count):
                place = Place(rank=rank, num_workers=count, rendezvous=str(Path(folder, "rendezvous")))
                variables = {**_loopback(), **os.environ, **size, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                work = (function, arguments, place, num_threads)
                preload = (*_PRELOAD, function.__module__)
                workers.append(Child(_work, work, environment=variables, preload=preload))
            follow(workers, take)
            failure = _first_failure(workers)
    if failure is not None:
        raise failure
    return [worker.outcome.value for worker in workers if worker.outcome is not None]


def join_process_group(device: torch.device, *, host_tensors: bool = False) -> None:
    """Connect this worker with the others; Lightning uses the process group that it finds.

    With `host_tensors`, tensors in main memory take part in collective calls, beside those on a GPU. Collective calls
    may wait long, while others load a model or the first worker answers validation problems; `run_on_devices` stops all
    workers when one exits.
    """
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if host_tensors else "nccl"
    place = here()
    torch.distributed.init_process_group(
        backend,
        store=torch.distributed.FileStore(place.rendezvous, place.num_workers),  # type: ignore[attr-defined]
        rank=place.rank,
        world_size=place.num_workers,
        timeout=datetime.timedelta(hours=12),
    )


def _loopback() -> dict[str, str]:
    """Variables that keep gloo and NCCL on the loopback interface; those that the user has set take precedence."""
    name = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}


def _first_failure(workers: list[Child]) -> BaseException | None:
    """The error of the worker that was killed or, if none was, of the one that failed first; None if all are done."""
    outcomes = [(rank, worker.outcome) for rank, worker in enumerate(workers)]
    failures = [(rank, outcome) for rank, outcome in outcomes if outcome is not None and outcome.error is not None]
    if not failures:
        return None
    rank, first = min(failures, key=lambda failure: (failure[1].trace != "", failure[1].failed_at))
    if not first.trace:
        return WorkerError(
            f"the worker of rank {rank} ended: {first.error}. The others were stopped; what was finished is kept, and "
            "the same command continues from there. Fix for too little memory: a smaller trainer.tokens_per_batch, "
            "trainer=fsdp2, or fewer trainer.devices"
        )
    if first.kind is not None:
        return first.kind.__new__(first.kind, first.error)  # its constructor may take other arguments
    logging.getLogger("cotpress.file").error("rank %d failed:\n%s", rank, first.trace)
    return WorkerError(f"the worker of rank {rank} failed: {first.error}. The traceback is in the log")


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM where it would end this process without stopping the workers."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, processes.terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], place: Place, num_threads: int) -> Any:
    """Set up the process of one device and call the function in it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    root = logging.getLogger()
    root.handlers = [_SendRecords("" if place.is_first else f"rank {place.rank}: ")]
    root.setLevel(logging.INFO if place.is_first else logging.WARNING)
    logging.captureWarnings(True)
    torch.set_num_threads(num_threads)
    try:
        with _working_at(place, processes.send):
            result = function(*arguments)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return result
    except BaseException as error:
        processes.send(processes.failure(error))
        time.sleep(2 * processes.GRACE_S)  # the other workers fail too when this one exits: its own failure comes first
        os._exit(1)  # an orderly exit may wait for the other workers


class _SendRecords(logging.handlers.QueueHandler):
    """Sends log records to the starting process, which has the handlers."""

    def __init__(self, prefix: str) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # `enqueue` needs no queue
        self._prefix = prefix

    def enqueue(self, record: logging.LogRecord) -> None:
        record.msg = self._prefix + str(record.msg)
        processes.send(record)
