"""The device of this process, and work on several devices: one worker process per device, watched by its stage.

With several machines (`devices.nodes`) the first one sends the work to the others, and each starts its own workers.
"""

import datetime
import logging
import logging.handlers
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]

from cotpress.devices import processes
from cotpress.devices.config import TrainerConfig
from cotpress.devices.nodes import FirstNode, Message, OtherNode, Work, others
from cotpress.devices.processes import Child, follow, stop, stopping
from cotpress.errors import ConfigError, Terminated, WorkerError
from cotpress.settings import leaves
from cotpress.store.artifacts import plain

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


@dataclass(frozen=True, slots=True)
class Alike:
    """Facts that have to be the same on all machines of a piece of work.

    Attributes:
        facts: Computes them on each machine, in the process of the command: content and number format of the models.
        path: Path of the model, for messages.
    """

    facts: Callable[[], Mapping[str, Any]]
    path: str

    def here(self, trainer: TrainerConfig) -> dict[str, str]:
        """The facts of this machine and its kind of device, as texts by dotted name."""
        return dict(leaves({"accelerator": pick_device(trainer).type, **plain(self.facts())}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of a process among the workers that share a piece of work."""

    rank: int = 0
    """Number among the workers, from 0."""
    num_workers: int = 1
    local_rank: int = 0
    """Number among the workers of its machine, from 0; also the number of its device."""
    num_local: int = 1
    """Workers of each machine."""
    rendezvous: str = ""
    """File, or on several machines host and port, through which the workers find each other; empty for one worker."""

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
    alike: Alike | None = None,
) -> list[Any]:
    """Call `function(*arguments)` once per device of all machines, and wait for all of them.

    One device is a plain call in this process. Several are processes of their own, in which `here` gives the place,
    `report` sends messages to `on_message`, and `join_process_group` connects the workers; the variables of
    `torch.distributed` (RANK, WORLD_SIZE, ...) are set. Log records of the first worker, and warnings of all, go to the
    log of this process.

    Args:
        function: A function of a module, so that it can be pickled.
        arguments: Picklable, as are the results.
        trainer: Number and kind of the devices of each machine.
        on_message: Called in this thread with the messages.
        alike: Facts that every other machine compares with those of this one before it starts its workers.

    Returns:
        The results by rank.

    Raises:
        CotpressError: The error of the worker that failed first.
        WorkerError: A worker was killed, or failed by a defect, whose traceback is in the log; or a machine was lost
            or is not `alike`.
        KeyboardInterrupt: This process was interrupted; the workers have been stopped.
        Terminated: SIGTERM has reached this process or a worker; a training has saved a checkpoint.
    """
    count, nodes = num_local_devices(trainer), others()
    if count == 1 and not nodes:
        with _working_at(Place(), on_message):
            return [function(*arguments)]

    def take(message: Any) -> None:
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif on_message is not None:
            on_message(message)

    total = count * (1 + len(nodes))
    log.info("%d workers, one per device%s", total, f", on {1 + len(nodes)} machines" if nodes else "")
    children: list[Child | OtherNode] = []
    compared = (alike, alike.here(trainer)) if alike is not None and nodes else None
    on_host = Counter([socket.gethostname(), *(node.node.host for node in nodes)])
    with _meeting_place(several=bool(nodes)) as (place, port), _sigterm_raises(), stopping(children, take):
        for number, node in enumerate(nodes, start=1):
            same = replace(trainer, devices=count)
            node.start(Work(function, arguments, same, number, total, port, on_host[node.node.host], compared))
            children.append(node)
        variables = _interface(nodes[0].interface) if nodes else _loopback()
        first, num_on_host = Place(num_workers=total, num_local=count, rendezvous=place), on_host[socket.gethostname()]
        workers = _workers(function, arguments, trainer, first, variables, num_on_host)
        for worker in workers:
            children.insert(len(children) - len(nodes), worker)
        follow(children, take, grace_s=3 * processes.GRACE_S if nodes else processes.GRACE_S)
        failure = _first_failure(children)
    if failure is not None:
        raise failure
    values = [child.outcome.value for child in children if child.outcome is not None]
    return [*values[:count], *(value for of_node in values[count:] for value in of_node)]


def _workers(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    trainer: TrainerConfig,
    first: Place,
    variables: Mapping[str, str],
    num_on_host: int,
) -> Iterator[Child]:
    """Start the workers of this machine, the first of which is at `first`.

    They share the cores with those of the other machines of this command on this host, `num_on_host` in all.
    """
    count = first.num_local
    num_threads = trainer.num_threads or max(1, (os.cpu_count() or 1) // (count * num_on_host))
    # torch and Lightning read the place of a worker from these variables.
    size = {
        "WORLD_SIZE": str(first.num_workers),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": str(first.rank // count),
    }
    for local_rank in range(count):
        place = replace(first, rank=first.rank + local_rank, local_rank=local_rank)
        rank = {"RANK": str(place.rank), "LOCAL_RANK": str(local_rank)}
        environment = {**variables, **os.environ, **size, **rank}
        work = (function, arguments, place, replace(trainer, num_threads=num_threads))
        yield Child(_work, work, environment=environment, preload=(*_PRELOAD, function.__module__))


@contextmanager
def _meeting_place(*, several: bool) -> Iterator[tuple[str, int]]:
    """A place where the workers find each other: a file on one machine, a port of this one for several."""
    if several:
        store = TCPStore("0.0.0.0", 0, is_master=True, wait_for_workers=False)  # noqa: S104
        yield f"127.0.0.1:{store.port}", store.port
        return
    with tempfile.TemporaryDirectory(prefix="cotpress-", ignore_cleanup_errors=True) as folder:
        file = Path(folder, "rendezvous")
        file.touch(mode=0o600)  # as is its folder; torch would follow the umask
        yield str(file), 0


def work_for(first: FirstNode) -> Any:
    """Do the work that the first node sends, until its command ends; returns that command's result.

    Raises:
        CotpressError: The first node has failed with it.
        WorkerError: The first node was lost, or has failed by a defect.
        Terminated: SIGTERM has reached one of the nodes; a training has saved a checkpoint.
    """
    log.info("joined the first machine (%s); waiting for its work", first.address)
    with first:
        while isinstance(received := first.receive(), Work):
            first.send(_done(first, received))
    outcome = received.outcome
    if outcome.kind is not None:
        raise outcome.kind.__new__(outcome.kind, outcome.error)
    if outcome.error is not None:
        raise WorkerError(f"the first machine failed: {outcome.error}")
    return outcome.value


def _done(first: FirstNode, work: Work) -> processes.Outcome:
    """Do a piece of work on the devices of this machine; its outcome."""
    children: list[Child] = []
    try:
        count = num_local_devices(work.trainer)
        log.info("works for the first machine (%s): %d of %d workers", first.address, count, work.num_workers)
        meeting = f"{first.address}:{work.port}"
        place = Place(rank=work.node * count, num_workers=work.num_workers, num_local=count, rendezvous=meeting)
        with _sigterm_raises(), stopping(children, lambda m: first.send(Message(m))):
            if work.alike is not None:
                _compare(*work.alike, work.trainer)
            variables = _interface(first.interface)
            children.extend(_workers(work.function, work.arguments, work.trainer, place, variables, work.num_on_host))
            follow(children, lambda m: first.send(Message(m)), until=first.wants_stop, further=first.waitables)
            if first.stop is not None:
                stop(children, first.stop.timeout_s)
                first.stop = None
    except Terminated as error:
        first.send(processes.failure(error))
        raise
    except Exception as error:
        return processes.failure(error)
    failure = _first_failure(children, place.rank)
    if failure is None:
        return processes.Outcome(value=[child.outcome.value for child in children if child.outcome is not None])
    failed_at = min(c.outcome.failed_at for c in children if c.outcome is not None and c.outcome.error is not None)
    trace = "" if isinstance(failure, _KilledError) else "on its machine"
    return replace(processes.failure(failure), trace=trace, failed_at=failed_at)


def _compare(alike: Alike, expected: Mapping[str, str], trainer: TrainerConfig) -> None:
    """Refuse to work with other models, in another number format or on another kind of device than the first machine.

    Raises:
        WorkerError: This machine differs.
    """
    own = alike.here(trainer)
    differing = [
        f"{name} {own.get(name, 'none')[:12]} instead of {expected.get(name, 'none')[:12]}"
        for name in sorted(own.keys() | expected.keys())
        if own.get(name) != expected.get(name)
    ]
    if differing:
        raise WorkerError(
            f"it has another model at '{alike.path}' than the first machine, or computes otherwise: "
            f"{'; '.join(differing)}. Fix: the same files at the same paths and the same kind of device on all "
            "machines; trainer.accelerator=cpu and model.dtype=float32 work on all"
        )


def _interface(name: str | None) -> dict[str, str]:
    """Variables that let gloo use a network interface, where the user has not set one."""
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name}


WAIT = datetime.timedelta(hours=12)
"""Longest time of a collective call. It may have to wait for others that load a model, or for the first worker, which
answers validation problems; `run_on_devices` stops all workers when one exits."""


def join_process_group(device: torch.device, *, host_tensors: bool = False) -> None:
    """Connect this worker with the others; Lightning uses the process group that it finds.

    With `host_tensors`, tensors in main memory take part in collective calls, beside those on a GPU.
    """
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if host_tensors else "nccl"
    place = here()
    host, _, port = place.rendezvous.rpartition(":")
    store = TCPStore(host, int(port), is_master=False) if host else FileStore(place.rendezvous, place.num_workers)
    torch.distributed.init_process_group(
        backend,
        store=store,
        rank=place.rank,
        world_size=place.num_workers,
        timeout=WAIT,
    )


def host_group() -> Any:
    """A further group of all workers, for tensors in main memory; all have to call it. None if none connects them."""
    return torch.distributed.new_group(backend="gloo", timeout=WAIT) if torch.distributed.is_initialized() else None


def _loopback() -> dict[str, str]:
    """Variables that keep gloo and NCCL on the loopback interface; those that the user has set take precedence."""
    name = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}


class _KilledError(WorkerError):
    """A worker was killed."""


def _first_failure(children: Sequence[Child | OtherNode], first_rank: int = 0) -> BaseException | None:
    """The error of the worker that was killed or, if none was, of the one that failed first; None if all are done."""
    outcomes = [(rank, child, child.outcome) for rank, child in enumerate(children, start=first_rank)]
    failures = [(rank, child, o) for rank, child, o in outcomes if o is not None and o.error is not None]
    if not failures:
        return None
    rank, child, first = min(failures, key=lambda failure: (failure[2].trace != "", failure[2].failed_at))
    if isinstance(child, OtherNode):
        lost = first.kind is None and not first.trace  # the error has its name
        kind = first.kind or WorkerError
        return kind.__new__(kind, f"{'' if lost else f'machine {child.node.name}: '}{first.error}")
    if not first.trace:
        return _KilledError(
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


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], place: Place, trainer: TrainerConfig) -> Any:
    """Set up the process of one device and call the function in it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    root = logging.getLogger()
    root.handlers = [_SendRecords("" if place.is_first else f"rank {place.rank}: ")]
    root.setLevel(logging.INFO if place.is_first else logging.WARNING)
    logging.captureWarnings(True)
    set_up_torch(trainer)
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
