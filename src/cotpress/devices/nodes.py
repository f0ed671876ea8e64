"""Several machines (nodes) that run the same command: the first one runs the flow, the others work for it.

    first node     opens a port, writes its addresses and a key into the shared output folder, waits for the others
    other nodes    read that file, connect, and start workers for each piece of work that the first node sends

`launch.run_on_devices` divides its work among the devices of all nodes. The connections end with the commands, so a
node that is killed is noticed at once, and one that is cut off after `LOST_S`. A connection counts only with the key,
which no other user can read, because what arrives on it is unpickled.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import queue
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

import cotpress
from cotpress.devices.config import TrainerConfig
from cotpress.devices.processes import Outcome, failure
from cotpress.errors import ConfigError, WorkerError, describe, require
from cotpress.plugins import LOADED
from cotpress.settings import differences
from cotpress.store.artifacts import fingerprint
from cotpress.store.source import code_of

log = logging.getLogger(__name__)

JOIN_S = 50.0
"""Longest wait of the first node for the others, and of these for the first one."""
ANSWER_S = 5.0
"""Longest wait for a connection, and for each message on it until both sides have shown the key."""
LOST_S = 30.0
"""Seconds without a sign of life after which the system closes the connection to a node."""
REMIND_S = 15.0
"""Seconds between two lines about what a node waits for."""
FOLDER = ".nodes"
"""Folder of the shared output folder in which the nodes find each other."""
_PACKAGES = ("torch", "transformers", "peft", "pytorch-lightning", "numpy", "tokenizers", "safetensors", "accelerate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Name, number and address by which the nodes of a command find each other.

    Attributes:
        name: The same on all nodes of a command, and different from that of other commands.
        number: Number of this node, from 0; None if it is the order in which they come.
        address: Host and port that the user gave.
        names: Names of the nodes, where they are known.
    """

    name: str
    number: int | None
    address: tuple[str, int] | None = None
    names: tuple[str, ...] = ()


def find_meeting(trainer: TrainerConfig, environment: Mapping[str, str] = os.environ) -> Meeting:
    """Read from the environment or `trainer.rendezvous` how the nodes of this command find each other.

    Raises:
        ConfigError: Nothing says it, `NODE_RANK` is no number of a node, or other than one process on each of
            `trainer.num_nodes` nodes runs the command.
    """
    get, num_nodes = environment.get, trainer.num_nodes
    if trainer.rendezvous is not None:
        host, _, port = trainer.rendezvous.rpartition(":")
        return Meeting(name=f"{host}-{port}", number=_node_rank(environment, num_nodes), address=(host, int(port)))
    if "TORCHELASTIC_RUN_ID" in environment:
        size = int(get("WORLD_SIZE", "1"))
        fix = f"torchrun --nnodes={num_nodes} --nproc-per-node=1"
        _check_processes(size, size // int(get("LOCAL_WORLD_SIZE", "1")), num_nodes, fix)
        keys = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
        name = "-".join(["torchrun", *(get(key, "") for key in keys)])
        return Meeting(name=name, number=int(get("GROUP_RANK", "0")))
    if "SLURM_STEP_ID" in environment:
        size, of_machines = int(get("SLURM_STEP_NUM_TASKS", "1")), int(get("SLURM_STEP_NUM_NODES", "1"))
        _check_processes(size, of_machines, num_nodes, f"srun -N {num_nodes} --ntasks-per-node=1")
        name = "-".join(get(key, "0") for key in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
        names = _names_of(get("SLURM_STEP_NODELIST", ""))
        return Meeting(name=f"slurm-{name}", number=int(get("SLURM_NODEID", "0")), names=names)
    raise ConfigError(
        f"trainer.num_nodes: got {trainer.num_nodes}, but nothing says how the machines find each other. Fix: start "
        f"the command with srun -N {trainer.num_nodes} --ntasks-per-node=1 or torchrun --nnodes={trainer.num_nodes}, "
        "or on each machine with trainer.rendezvous=HOST:PORT of one of them"
    )


def check_alone(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a command for one machine that several run, where each would do all of its work.

    Raises:
        ConfigError: srun or torchrun has started it several times.
    """
    get = environment.get
    several = int(get("SLURM_STEP_NUM_TASKS", "1")) if "SLURM_STEP_ID" in environment else 1
    if "TORCHELASTIC_RUN_ID" in environment:
        several = int(get("WORLD_SIZE", "1"))
    if several > 1:
        raise ConfigError(
            f"trainer.num_nodes: got 1, but {several} processes run this command, each all of it. Fix: "
            "trainer.num_nodes=N of the machines, one process on each; or start it once; if each does another part of "
            "the work, python behind `env -u SLURM_STEP_ID -u TORCHELASTIC_RUN_ID`"
        )


def _node_rank(environment: Mapping[str, str], num_nodes: int) -> int | None:
    """The number that the user gave to this node; None without one."""
    given = environment.get("NODE_RANK")
    if given is None:
        return None
    require("NODE_RANK", given, given.isdecimal() and int(given) < num_nodes, f"0 to {num_nodes - 1}, or no NODE_RANK")
    return int(given)


def _check_processes(processes: int, machines: int, num_nodes: int, fix: str) -> None:
    if not processes == machines == num_nodes:
        raise ConfigError(
            f"trainer.num_nodes: got {num_nodes}, but the command runs in {processes} processes on {machines} "
            "machines, allowed: one on each, which starts one worker per device itself. "
            f"Fix: {fix}, and trainer.devices=N"
        )


def _names_of(nodes: str) -> tuple[str, ...]:
    """The names in SLURM's short form (`n[1-2]`); none where its command is missing."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["scontrol", "show", "hostnames", nodes]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
        return tuple(shown.stdout.split())
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as it introduces itself.

    Attributes:
        name: Host name and process id, as several nodes may be on one host.
        number: Its number, from 1; None if it is the order in which they come.
        code: What runs there: hash of this package, versions of others.
        host: Its host name.
        settings: Its configuration, as JSON values.
    """

    name: str
    number: int | None
    host: str
    code: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work for the devices of a node.

    Attributes:
        function: Called once per device, with `arguments`.
        trainer: Number and kind of the devices of each node.
        node: Number of the node, from 0.
        num_workers: Number of devices of all nodes.
        port: Port of the first node on which the workers find each other.
        num_on_host: Number of nodes on the host of the node.
        alike: A `launch.Alike` and its facts on the first node; None if there is nothing to compare.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    trainer: TrainerConfig
    node: int
    num_workers: int
    port: int
    num_on_host: int = 1
    alike: tuple[Any, Mapping[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a worker to the first node."""

    content: Any


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of a piece of work, sent to the first node.

    Attributes:
        outcome: The outcome.
        ago_s: Seconds since the failure, if it is one: the clocks of two machines may differ by any time.
    """

    outcome: Outcome
    ago_s: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Asks a node to end its workers, which have so many seconds for it, None for as many as they need."""

    timeout_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The command ends: with a result, or with the failure of the first node."""

    outcome: Outcome


@cache
def running_code() -> dict[str, str]:
    """Hashes of the files of this package and of plugins, versions of Python and of the packages that compute."""
    digest, package = hashlib.sha256(), Path(cotpress.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    versions = {name: version(name) for name in _PACKAGES}
    plugins = [sys.modules[name] for name in sorted(LOADED) if name in sys.modules]
    code = {"cotpress": digest.hexdigest()[:12], "python": platform.python_version(), **versions}
    return {**code, "plugins": fingerprint(code_of(*plugins))} if plugins else code


def this_node(number: int | None, settings: Mapping[str, Any]) -> Node:
    """Introduce this node."""
    host = socket.gethostname()
    return Node(name=f"{host}[{os.getpid()}]", number=number, host=host, code=running_code(), settings=settings)


class OtherNode:
    """Another node, as the first one sees it; follows one piece of work like a child (`processes.Child`).

    Attributes:
        outcome: The outcome of its workers: their values by rank, or the first failure.
    """

    def __init__(self, node: Node, connection: Connection) -> None:
        self.node, self._connection = node, connection
        self.interface = _interface_of(connection)
        self.outcome: Outcome | None = None

    def start(self, work: Work) -> None:
        """Send a piece of work."""
        self.outcome = None
        self._send(work)

    def waitables(self) -> list[Any]:
        """Objects for `multiprocessing.connection.wait`."""
        return [] if self._connection.closed else [self._connection]

    def drain(self, on_message: Callable[[Any], None]) -> bool:
        """Hand on the messages that have arrived, and set `outcome`; True if the work has ended."""
        try:
            while self.outcome is None and self._connection.poll():
                received = self._connection.recv()
                if isinstance(received, Message):
                    on_message(_stamped(received.content))
                else:
                    assert isinstance(received, Done)
                    self.outcome = replace(received.outcome, failed_at=time.monotonic() - received.ago_s)
        except (EOFError, OSError):
            self._lost()
        return self.outcome is not None

    def terminate(self, timeout_s: float | None = None) -> None:
        """Ask for the end of the workers, if they run."""
        if self.outcome is None:
            self._send(Stop(timeout_s))

    def end(self, timeout_s: float | None) -> None:
        """Wait for the outcome; after the timeout, None for none, give the node up."""
        deadline = None if timeout_s is None else time.monotonic() + max(timeout_s, 0.0)
        while not self.drain(lambda _: None):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self._connection.close()
                self.outcome = Outcome(
                    error=f"machine {self.node.name} did not stop in time", failed_at=time.monotonic()
                )
                return
            with contextlib.suppress(OSError):
                self._connection.poll(left)

    def dismiss(self, end: End) -> None:
        """Tell how the command ended, and close the connection."""
        self._send(end)
        self._connection.close()

    def _send(self, what: Any) -> None:
        try:
            self._connection.send(what)
        except OSError:
            self._lost()

    def _lost(self) -> None:
        self._connection.close()
        if self.outcome is None:
            error = f"machine {self.node.name} ended, or cannot be reached any more"
            self.outcome = Outcome(error=error, failed_at=time.monotonic())


def _stamped(content: Any) -> Any:
    """Give a log record the time of its arrival, as the clock of its machine may differ from that of the log."""
    if isinstance(content, logging.LogRecord):
        content.created = time.time()
        content.msecs = content.created % 1 * 1000
    return content


_others: list[OtherNode] = []
"""The other nodes of the command, in their order, on the first one."""


def others() -> Sequence[OtherNode]:
    """The other nodes that work for this process, which is the first one; none without several nodes."""
    return _others


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """The open port of the first node, and the key of its connections."""

    listener: socket.socket
    key: bytes


def open_port(meeting: Meeting) -> Port | str:
    """Open the port, on all interfaces, if this node is the first one, else give the reason why it is not.

    Without numbers the first one has the address; of several on one machine it is the one that comes first.

    Raises:
        ConfigError: This node is the first one, and the port cannot be opened.
    """
    host, port = meeting.address or ("", 0)
    if meeting.number is None and (reason := _not_own(host)) is not None:
        return reason
    if meeting.number not in (None, 0):
        return f"it has the number {meeting.number}"
    try:
        return Port(listener=socket.create_server(("", port), backlog=64), key=secrets.token_bytes(32))
    except OSError as error:
        problem = f"cannot listen on port {port}: {os.strerror(error.errno or 0)}"
        if meeting.number is None and error.errno == errno.EADDRINUSE:
            return problem
        raise ConfigError(f"trainer.rendezvous: {problem}. Fix: a port that is free on the first machine") from error


def _not_own(host: str) -> str | None:
    """The reason why a host is not this machine; None if it is."""
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None, socket.AF_INET)}
    except (OSError, UnicodeError) as error:
        return f"'{host}' is no IPv4 address and no name that is known here: {error}"
    for address in addresses:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind((str(address), 0))
            return None
    return f"'{host}' is another machine"


@contextlib.contextmanager
def leading(
    port: Port, meeting: Meeting, num_nodes: int, folder: Path, settings: Mapping[str, Any]
) -> Iterator[list[Any]]:
    """Be the first node: wait for the others, who leave with the outcome of the block.

    The block puts its result into the list that it gets.

    Raises:
        WorkerError: A node does not come, or runs other code or settings.
    """
    joined: list[OtherNode] = []
    result: list[Any] = []
    end = End(outcome=Outcome())
    try:
        with _listening(port, meeting, folder) as arrivals:
            _wait_for(meeting, num_nodes - 1, settings, arrivals, joined)
        joined.sort(key=lambda other: other.node.number or 0)
        _others[:] = joined
        log.info("%d machines: %s", num_nodes, ", ".join([socket.gethostname(), *(o.node.name for o in joined)]))
        yield result
        end = End(outcome=Outcome(value=result[0] if result else None))
    except BaseException as error:
        end = End(outcome=failure(error))
        raise
    finally:
        _others.clear()
        for other in joined:
            other.dismiss(end)


@contextlib.contextmanager
def _listening(port: Port, meeting: Meeting, folder: Path) -> Iterator["queue.Queue[tuple[Node, Connection]]"]:
    """Accept nodes that have the key of a file in `folder`, which is there as long as the block lasts."""
    arrivals: queue.Queue[tuple[Node, Connection]] = queue.Queue()
    closed = threading.Event()

    def admit(connection: Connection, address: str) -> None:
        try:
            _limit(connection, ANSWER_S)
            deliver_challenge(connection, port.key)
            answer_challenge(connection, port.key)
            node = connection.recv()
            _keep_alive(connection)
        except Exception as error:  # anything can arrive on an open port
            connection.close()
            log.warning("a connection from %s, no machine of this command, was refused (%s)", address, describe(error))
        else:
            arrivals.put((node, connection))

    def accept() -> None:
        while not closed.is_set():
            try:
                sock, (address, *_) = port.listener.accept()
            except OSError:  # closed, or too many files are open
                closed.wait(0.1)
                continue
            threading.Thread(target=admit, args=(Connection(sock.detach()), address), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    path = _file(folder, meeting)
    try:
        number = port.listener.getsockname()[1]
        _write(path, {"addresses": _addresses(), "port": number, "key": port.key.hex()})
        yield arrivals
    finally:
        path.unlink(missing_ok=True)
        closed.set()
        port.listener.shutdown(socket.SHUT_RDWR)  # ends a waiting `accept`, which would keep the port open
        accepting.join()
        port.listener.close()


def _file(folder: Path, meeting: Meeting) -> Path:
    return folder / FOLDER / f"{hashlib.sha256(meeting.name.encode()).hexdigest()[:16]}.json"


def _write(path: Path, content: Any) -> None:
    """Write a file that only this user can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)
    new.replace(path)


def _wait_for(
    meeting: Meeting,
    count: int,
    settings: Mapping[str, Any],
    arrivals: "queue.Queue[tuple[Node, Connection]]",
    joined: list[OtherNode],
) -> None:
    """Add the other nodes to `joined` as they come; see `leading`."""
    own, waiting = this_node(0, settings), _Waiting()
    while len(joined) < count:
        waiting.tell(f"other machines to join {socket.gethostname()}: {_missing(meeting, count, joined)}")
        try:
            node, connection = arrivals.get(timeout=waiting.next_s)
        except queue.Empty:
            if waiting.left_s > 0:
                continue
            raise WorkerError(_absent(meeting, count, joined)) from None
        numbers = [other.node.number for other in joined]
        node = replace(node, number=len(joined) + 1 if node.number is None else node.number)
        joined.append(OtherNode(node, connection))
        if (problem := _mismatch(own, node)) is not None:
            raise WorkerError(f"machine {node.name} {problem}")
        if node.number in numbers or node.number not in range(1, count + 1):
            raise WorkerError(
                f"machine {node.name} has the number {node.number}, which another one has, or which is not among 1 to "
                f"{count}. Fix: NODE_RANK=0, 1, ... on the machines, and trainer.num_nodes of their number"
            )


class _Waiting:
    """A wait of at most `JOIN_S`, of which a line tells at its start and every `REMIND_S`."""

    def __init__(self) -> None:
        self._due = time.monotonic()
        self._ends = self._due + JOIN_S
        self._clock = time.strftime("%H:%M:%S", time.localtime(time.time() + JOIN_S))

    @property
    def left_s(self) -> float:
        """Seconds until the end of the wait, at least 0."""
        return max(self._ends - time.monotonic(), 0.0)

    @property
    def next_s(self) -> float:
        """Seconds until the next line or the end of the wait, at least 0."""
        return max(min(self._due, self._ends) - time.monotonic(), 0.0)

    def tell(self, what: str) -> None:
        """Log what is waited for, if it is time."""
        if time.monotonic() >= self._due:
            log.info("waiting until %s, %.0f s at most, for %s", self._clock, self.left_s, what)
            self._due = time.monotonic() + REMIND_S


def _mismatch(own: Node, node: Node) -> str | None:
    """The difference of a node from this one that forbids to work together; None without one."""
    differing = [f"{k} {node.code.get(k)} instead of {v}" for k, v in own.code.items() if node.code.get(k) != v]
    if differing:
        fix = "Fix: the same versions on all machines, e.g. one environment in a shared folder"
        return f"runs other code than {own.name}: {'; '.join(differing)}. {fix}"
    if node.settings != own.settings:
        told = differences(node.settings, own.settings)
        return f"was started with other settings than {own.name}: {told}. Fix: the same command on all machines"
    return None


def _absent(meeting: Meeting, count: int, joined: Sequence[OtherNode]) -> str:
    """The message about nodes that did not come."""
    missing = _missing(meeting, count, joined)
    return (
        f"machines that have not joined {socket.gethostname()} within {JOIN_S:g} s: {missing}. Fix: see the output of "
        "this command there: it has to see the same output_root, and to reach this machine over the network"
    )


def _missing(meeting: Meeting, count: int, joined: Sequence[OtherNode]) -> str:
    """The nodes that have not come yet: their names or numbers, without numbers how many of the others."""
    here = {other.node.number for other in joined}
    numbers = [number for number in range(1, count + 1) if number not in here]
    names = [meeting.names[n] if n < len(meeting.names) else f"number {n}" for n in numbers]
    return ", ".join(names) if meeting.number is not None else f"{len(numbers)} of {count} others"


class NotJoinedError(WorkerError):
    """This machine has not joined the others; they may have begun without it."""


class FirstNode:
    """The first node, as another one sees it.

    Attributes:
        address: Its address.
        interface: Name of the network interface towards it.
        stop: Its request to end the workers.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            self.address = str(sock.getpeername()[0])
        self.interface = _interface_of(connection)
        self.stop: Stop | None = None
        self._lost: type[WorkerError] = NotJoinedError

    def __enter__(self) -> "FirstNode":
        """Work for it as long as the block lasts."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection, which the first node notices."""
        self._connection.close()

    def receive(self) -> Work | End:
        """Wait for the next piece of work, or the end; `WorkerError` if the first node is lost."""
        try:
            while isinstance(received := self._connection.recv(), Stop):
                continue  # it came when the work was done
        except (EOFError, OSError) as error:
            raise self._lost(f"the first machine ({self.address}) ended, or cannot be reached any more") from error
        self._lost = WorkerError
        assert isinstance(received, Work | End)
        return received

    def send(self, what: Outcome | Message) -> None:
        """Send an outcome, or a `Message`; nothing if the first node is lost, which `receive` tells."""
        with contextlib.suppress(OSError):
            sent = Done(what, time.monotonic() - what.failed_at) if isinstance(what, Outcome) else what
            self._connection.send(sent)

    def waitables(self) -> list[Any]:
        """Objects for `multiprocessing.connection.wait`."""
        return [self._connection]

    def wants_stop(self) -> bool:
        """True if it asks to end the workers, or is lost."""
        try:
            if self.stop is None and self._connection.poll():
                received = self._connection.recv()
                self.stop = received if isinstance(received, Stop) else Stop(None)
        except (EOFError, OSError):
            self.stop = Stop(0.0)
        return self.stop is not None


def join(meeting: Meeting, folder: Path, settings: Mapping[str, Any], reason: str) -> FirstNode:
    """Connect to the first node, which this one is not for a `reason` (`open_port`).

    Raises:
        NotJoinedError: It is not found, or cannot be reached.
    """
    path, waiting, problem = _file(folder, meeting), _Waiting(), ""
    while waiting.left_s > 0:
        waiting.tell(f"the first machine; this one is another, as {reason}{f'. So far {problem}' if problem else ''}")
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            problem = f"there is no file of it in '{path.parent.absolute()}'"
        except (OSError, ValueError) as error:
            problem = f"its file cannot be read: {error}"
        else:
            places = [meeting.address] if meeting.address else [(host, found["port"]) for host in found["addresses"]]
            problems = []
            for host, port in places:
                try:
                    connection = _connect(host, port, bytes.fromhex(found["key"]))
                    connection.send(this_node(meeting.number, settings))
                    return FirstNode(connection)
                except (OSError, EOFError, UnicodeError, AuthenticationError) as error:
                    late = isinstance(error, TimeoutError | BlockingIOError)
                    why = f"nothing within {ANSWER_S:g} s" if late else str(error) or "it closes the connection"
                    problems.append(f"{host}:{port} does not answer: {why}")
            problem = "; ".join(problems)
        time.sleep(0.2)
    raise NotJoinedError(
        f"machine {socket.gethostname()} found no first machine within {JOIN_S:g} s: {problem}. It is not the first "
        f"one itself: {reason}. Fix: the same command there, with an output_root that both see, and a network in which "
        "they reach each other"
    )


def _connect(host: str, port: int, key: bytes) -> Connection:
    with socket.create_connection((host, port), timeout=ANSWER_S) as sock:
        sock.settimeout(None)
        connection = Connection(sock.detach())
    _limit(connection, ANSWER_S)
    answer_challenge(connection, key)
    deliver_challenge(connection, key)
    _keep_alive(connection)
    return connection


def _limit(connection: Connection, seconds: float) -> None:
    """Limit the wait for further data, after which `recv` raises `BlockingIOError`; 0 for no limit."""
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _keep_alive(connection: Connection) -> None:
    """Let `recv` wait as long as the other end gives a sign of life every `LOST_S`; then the system closes it."""
    _limit(connection, 0.0)
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LOST_S * 1000))


def _own_address(connection: Connection) -> str:
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        return str(sock.getsockname()[0])


def _interfaces() -> dict[str, str]:
    """IPv4 address of each network interface that has one."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", name.encode()))  # SIOCGIFADDR
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def _addresses() -> list[str]:
    """Addresses of this machine, the loopback interface last."""
    return sorted(_interfaces().values(), key=lambda address: address.startswith("127."))


def _interface_of(connection: Connection) -> str | None:
    """Name of the network interface that a connection uses."""
    address = _own_address(connection)
    return next((name for name, own in _interfaces().items() if own == address), None)
