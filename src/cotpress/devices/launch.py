"""Start one process per device, hear them, and end with what they return or with the reason of the first that failed.

torch's own agent (`torch.distributed.launcher`) starts and watches the processes. They are forked from a server that
has imported the function's module once (as in `isolation`), so that workers of later stages start at once.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.devices.isolation import died
from cotpress.devices.place import Hear, Place, working_at
from cotpress.devices.worker import Failure, Task, environment, work
from cotpress.errors import ConfigError, WorkerError

log = logging.getLogger(__name__)

_START_METHOD = "forkserver"
_PRELOAD = ("cotpress.devices.lightning", "peft", "transformers.models.auto.modeling_auto")
"""What most functions need; the server imports it once. Importing does nothing with a GPU."""
_CHATTY = ("torch.distributed.elastic", "torch.multiprocessing", "torchelastic-events-null")
"""Loggers of torch's agent; what they say about a failure is said by us in one sentence."""


def num_local_devices(trainer: TrainerConfig) -> int:
    """Devices of this machine that `trainer.devices` stands for.

    Raises:
        ConfigError: There are not so many GPUs.
    """
    if pick_device(trainer).type == "cpu":
        return trainer.devices or 1
    present = torch.cuda.device_count()
    if trainer.devices is not None and trainer.devices > present:
        raise ConfigError(f"trainer.devices: got {trainer.devices}, but torch sees {present} GPUs. Fix: fewer, or null")
    return trainer.devices or present


class _DeathError(Exception):
    """A worker is gone."""

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(rank, code)
        self.code = code
        self.message = (
            f"the worker of rank {rank} ended: {died(code)}. The others were stopped; what was finished is kept, and "
            "the same command goes on from there. Fix for too little memory: a smaller trainer.tokens_per_batch, "
            "trainer=fsdp2, or fewer trainer.devices"
        )


def run_on_devices(
    function: Callable[..., Any], arguments: tuple[Any, ...], *, trainer: TrainerConfig, hear: Hear | None = None
) -> list[Any]:
    """Call `function(*arguments)` once per device, and wait for all of them.

    One device is a plain call in this process. Several are processes of their own, in which `here()` tells the place,
    and the variables of `torch.distributed` (RANK, MASTER_ADDR, ...) are set. Log records of the first worker, and
    warnings of all, come out of this process's log.

    Args:
        function: Of a module, so that it can be pickled.
        arguments: Picklable as well, results too.
        trainer: How many devices.
        hear: Gets what workers `report`; called in a thread of its own while this one waits.

    Returns:
        What it returned, by local rank.

    Raises:
        CotpressError: What the first worker that failed has raised.
        WorkerError: A worker failed by a defect, whose traceback is in the log, or was killed.
        KeyboardInterrupt: This process was interrupted; the workers have been stopped.
    """
    count = num_local_devices(trainer)
    if count == 1 and trainer.num_nodes == 1:
        with working_at(Place(), hear):
            return [function(*arguments)]
    context = multiprocessing.get_context(_START_METHOD)
    context.set_forkserver_preload([*_PRELOAD, function.__module__])
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    task = Task(
        function=function,
        arguments=arguments,
        environment=environment(),
        num_threads=trainer.num_threads or max(1, (os.cpu_count() or 1) // count),
        outboxes=tuple(writer for _, writer in pipes),
    )
    inbox = _Inbox([reader for reader, _ in pipes], hear)
    log.info("%d workers, one per device", count)
    try:
        return _launched(task, count)
    except _DeathError as error:
        inbox.close(task)
        raise inbox.first_failure(error) from None
    finally:
        inbox.close(task)
        inbox.raise_own()


def _launched(task: Task, count: int) -> list[Any]:
    """Results by local rank."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,  # a stage resumes by itself when the command is repeated
        start_method=_START_METHOD,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        signals_to_handle=",".join(s.name for s in _heard_signals()),
    )
    try:
        with _kept_handlers(), _quiet_agent():
            results: dict[int, Any] = elastic_launch(config, work)(task)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == -signal.SIGINT:  # Ctrl-C reaches a whole terminal, the workers perhaps first
            raise KeyboardInterrupt from None
        raise _DeathError(rank, failure.exitcode) from None
    return [results[rank] for rank in sorted(results)]


def _heard_signals() -> list[signal.Signals]:
    """Those that end this process unless it was told to ignore them."""
    return [s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) is not signal.SIG_IGN]


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """torch's agent puts its own signal handlers in place and leaves them there."""
    before = {s: signal.getsignal(s) for s in _heard_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_agent() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class _Inbox:
    """Hears the workers in a thread: log records, failures and reports."""

    def __init__(self, readers: list[Connection], hear: Hear | None) -> None:
        self._readers, self._hear = list(readers), hear
        self._failures: list[Failure] = []
        self._own: Exception | None = None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self, task: Task) -> None:
        """Hear what is left; call it when the workers are gone."""
        for outbox in task.outboxes:  # the last copies: every reader comes to its end
            outbox.close()
        self._thread.join()

    def first_failure(self, death: _DeathError) -> Exception:
        """What the first worker that failed has raised, or how it died if it was killed."""
        if death.code < 0 or not self._failures:
            return WorkerError(death.message)
        first = min(self._failures, key=lambda failure: failure.at)
        if first.kind is not None:
            return first.kind.__new__(first.kind, first.message)  # its constructor may want something else
        logging.getLogger("cotpress.file").error("rank %d failed:\n%s", first.rank, first.trace)
        return WorkerError(f"the worker of rank {first.rank} failed: {first.message}. The traceback is in the log")

    def raise_own(self) -> None:
        """Raise what `hear` has raised."""
        if self._own is not None:
            raise self._own

    def _listen(self) -> None:
        while self._readers:
            for ready in multiprocessing.connection.wait(self._readers):
                assert isinstance(ready, Connection)
                try:
                    message = ready.recv()
                except (EOFError, OSError):
                    self._readers.remove(ready)
                    continue
                self._take(message)

    def _take(self, message: Any) -> None:
        if isinstance(message, Failure):
            self._failures.append(message)
        elif isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif self._hear is not None and self._own is None:
            try:
                self._hear(message)
            except Exception as error:
                self._own = error
