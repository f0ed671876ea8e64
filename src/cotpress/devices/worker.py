"""What happens in the process of one device: it is set up, calls the function, and says how that ended."""

import logging
import logging.handlers
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cotpress.devices.isolation import end_with_parent
from cotpress.devices.place import Hear, Place, working_at
from cotpress.errors import CotpressError, describe

SET_BY_AGENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which torch and Lightning know a worker's place; those of the starting process are not handed on."""

_SEEN_AFTER_S = 1.0
"""A worker that fails because another was killed ends after that one has been found dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every worker gets.

    Attributes:
        function: Of a module, so that it can be pickled.
        arguments: What it is called with.
        environment: Variables of the process that starts the workers.
        num_threads: Threads of torch.
        outboxes: One way back for each worker of this machine.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    environment: Mapping[str, str]
    num_threads: int
    outboxes: tuple[Connection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a worker stops.

    Attributes:
        at: When, in seconds of this machine's clock: who fails later fails because the first one is gone.
        rank: Which one.
        kind: Class of an error for users; None for a defect.
        message: The error for people.
        trace: The whole traceback.
    """

    at: float
    rank: int
    kind: type[CotpressError] | None
    message: str
    trace: str


def environment() -> dict[str, str]:
    """The variables that workers take over from this process."""
    return {k: v for k, v in os.environ.items() if k not in SET_BY_AGENT and not k.startswith("TORCHELASTIC_")}


def work(task: Task) -> Any:
    """Call the task's function at the place that torch's agent has put into the environment."""
    place = Place(
        rank=int(os.environ["RANK"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        num_workers=int(os.environ["WORLD_SIZE"]),
        num_local_workers=int(os.environ["LOCAL_WORLD_SIZE"]),
    )
    die_at_once()
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.update(task.environment)
    outbox = task.outboxes[place.local_rank]
    for other in task.outboxes:
        if other is not outbox:
            other.close()
    send = _one_at_a_time(outbox)
    _log_to(send, place)
    try:
        with working_at(place, send):
            result = _on_threads(task)
    except BaseException as error:
        send(_failure(error, place))
        time.sleep(_SEEN_AFTER_S)
        os._exit(1)  # other workers may never come to where an orderly end would wait for them
    return result


def _failure(error: BaseException, place: Place) -> Failure:
    kind = type(error) if isinstance(error, CotpressError) else None
    return Failure(at=time.time(), rank=place.rank, kind=kind, message=describe(error), trace=traceback.format_exc())


def die_at_once() -> None:
    """Signals end this process without a word: whoever sent them tells the user, and nothing waits for other workers.

    Lightning's own handler of SIGTERM begins a collective call, which hangs where another worker is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _on_threads(task: Task) -> Any:
    import torch

    torch.set_num_threads(task.num_threads)
    result = task.function(*task.arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result


def _one_at_a_time(outbox: Connection) -> Hear:
    """Threads of this process may log while another reports."""
    lock = threading.Lock()

    def send(message: Any) -> None:
        with lock:
            outbox.send(message)

    return send


class _SendRecords(logging.handlers.QueueHandler):
    """Log records go to the starting process, which has the handlers."""

    def __init__(self, send: Hear, prefix: str) -> None:
        super().__init__(send)  # type: ignore[arg-type]  # no queue: `enqueue` is ours
        self._send, self._prefix = send, prefix

    def enqueue(self, record: logging.LogRecord) -> None:
        record.msg = self._prefix + str(record.msg)
        self._send(record)


def _log_to(send: Hear, place: Place) -> None:
    """The first worker says everything, the others what is wrong."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(_SendRecords(send, "" if place.is_first else f"rank {place.rank}: "))
    root.setLevel(logging.INFO if place.is_first else logging.WARNING)
    logging.captureWarnings(True)
