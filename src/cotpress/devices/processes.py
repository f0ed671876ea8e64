"""Child processes: start a function in one, exchange messages with it, stop it, explain how it ended.

The jobs of a multirun, the workers of a stage on several devices and the comparison of answers run in such processes. A
child that is killed (no memory, a broken driver, `kill -9`) takes no other process with it, and the memory that it held
on a GPU is free when it ends. A child ends when the process that started it ends, even by `kill -9`.
"""

import faulthandler
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from cotpress.errors import CotpressError, Terminated, describe

STOP_AFTER_S = 15.0
"""Time that a child has to end after SIGTERM, for example to finish its W&B run; then it is killed."""
GRACE_S = 1.0
"""Time in which further failures are collected after the first one, to tell the cause from what follows from it."""

_LONGEST_TMPDIR = 60
"""Bytes of a TMPDIR that leave room for the names below it in the path of a Unix socket, which has at most 108."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a child."""

    value: Any = None
    """Return value of the function; None if it failed."""
    error: str | None = None
    """Message of the failure; None if there was none."""
    kind: type[CotpressError] | type[KeyboardInterrupt] | None = None
    """Class of an error for users, or of an interrupt; None for a defect or a process that was killed."""
    trace: str = ""
    """Traceback of the failure; empty if the process was killed."""
    failed_at: float = 0.0
    """Time of the failure by `time.monotonic`, which the processes of one machine share."""


class Followed(Protocol):
    """A child, or another machine, that `follow` and `stop` can wait for and end."""

    outcome: Outcome | None

    def waitables(self) -> list[Any]:
        """Objects for `multiprocessing.connection.wait`: ready when there are messages or it has ended."""

    def drain(self, on_message: Callable[[Any], None]) -> bool:
        """Hand on the messages that have arrived, and set `outcome`; True if it has ended."""

    def terminate(self, timeout_s: float | None = None) -> None:
        """Ask it to end; `end` waits so long for it."""

    def end(self, timeout_s: float | None) -> None:
        """Wait for its end; after the timeout, None for none, end it by force."""


class Child:
    """A function that runs in a process of its own, started at once.

    The process ignores SIGINT, which a terminal sends to all of its processes: the process that started it decides.
    SIGTERM raises `Terminated` in it. Inside, `send` and `receive` exchange messages with this process.

    Attributes:
        pid: Id of the process.
        outcome: The outcome of the function, or the death of the process, once `follow` has seen it.

    Args:
        function: A function of a module, so that it can be pickled.
        arguments: Its arguments; picklable.
        environment: Variables of the process; None takes those of this process.
        output: File to which standard output and standard error are appended; None shares those of this process.
        preload: Modules that the server of forked children imports once, before its first child, so that children start
            at once; None starts a new interpreter, which shares no memory and does not import the script of the caller.
        daemon: True ends the child when this process exits; it may then start no processes itself.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...] = (),
        *,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
        preload: Sequence[str] | None = None,
        daemon: bool = False,
    ) -> None:
        methods = multiprocessing.get_all_start_methods()
        if multiprocessing.get_start_method(allow_none=True) not in (None, *methods):
            # A worker of joblib has a start method of its own, which its children would inherit without knowing it.
            multiprocessing.set_start_method(methods[0], force=True)
        context: Any = multiprocessing.get_context("spawn" if preload is None else "forkserver")
        if preload is not None:
            context.set_forkserver_preload(["cotpress.devices.forkserver", *preload])
        _keep_sockets_short()
        self._connection, theirs = context.Pipe()
        variables = dict(os.environ if environment is None else environment)
        work = (function, arguments, variables, output, theirs)
        self._process = context.Process(target=_run, args=work, daemon=daemon)
        resource_tracker.ensure_running()  # its start unblocks SIGINT
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a child inherits it until it ignores SIGINT
        try:
            with _without_script() if preload is None else nullcontext():
                self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.pid: int = self._process.pid
        self.outcome: Outcome | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit code, the negative number of a signal, or None while the process runs."""
        code: int | None = self._process.exitcode
        return code

    def send(self, message: Any) -> None:
        """Send a picklable message; OSError if the process has ended."""
        self._connection.send(message)

    def receive(self, timeout_s: float) -> Any:
        """The next message; None if none comes in time or the process has ended."""
        try:
            return self._connection.recv() if self._connection.poll(timeout_s) else None
        except (EOFError, OSError):
            return None

    def waitables(self) -> list[Any]:
        """Objects for `multiprocessing.connection.wait`: ready when there are messages or the process has ended."""
        return [self._process.sentinel, *([] if self._connection.closed else [self._connection])]

    def drain(self, on_message: Callable[[Any], None]) -> bool:
        """Hand on the messages that have arrived, and set `outcome`; True if the process has ended."""
        code = self.exit_code  # read first: after the end no message can come
        while not self._connection.closed:
            try:
                if not self._connection.poll():
                    break
                message = self._connection.recv()
            except (EOFError, OSError):
                self._connection.close()
                break
            if isinstance(message, Outcome):
                self.outcome = message
            else:
                on_message(message)
        if code is not None and self.outcome is None:
            self.outcome = Outcome(error=explain_exit(code), failed_at=time.monotonic())
        return code is not None

    def terminate(self, timeout_s: float | None = None) -> None:
        """Send SIGTERM to a process that runs; `end` waits so long for it."""
        if self.exit_code is None:
            self._process.terminate()

    def end(self, timeout_s: float | None) -> None:
        """Wait for the end of the process; after the timeout, None for none, kill it."""
        self._process.join(None if timeout_s is None else max(timeout_s, 0.0))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._connection.close()


def _keep_sockets_short() -> None:
    """Let multiprocessing make the folder of its sockets in /tmp if their path in TMPDIR were too long for the kernel.

    The folder is made once per process, and its children use it too.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TMPDIR:
        return
    chosen, tempfile.tempdir = tempfile.tempdir, "/tmp"  # noqa: S108 (in it, a new folder for this user alone)
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = chosen


@contextmanager
def _without_script() -> Iterator[None]:
    """Hide the path of the running script from multiprocessing, whose new process would run it again.

    A script without `if __name__ == "__main__"` would then start all of its work in every child.
    """
    main: Any = sys.modules["__main__"]
    file, spec = vars(main).pop("__file__", None), main.__spec__
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


def follow(
    children: Sequence[Followed],
    on_message: Callable[[Any], None] = lambda _: None,
    *,
    until: Callable[[], bool] = lambda: False,
    further: Callable[[], list[Any]] = list,
    grace_s: float = GRACE_S,
) -> None:
    """Hand on the messages of children until all have ended; of several, until soon after one of them has failed.

    Args:
        children: The children.
        on_message: Called with their messages.
        until: Ends the following early.
        further: Objects for `multiprocessing.connection.wait` that are ready when `until` may have changed.
        grace_s: Time in which further failures are collected after the first one.

    Raises:
        KeyboardInterrupt: This process was started by a parallel launcher that is gone.
    """
    parent, running, deadline = os.getppid(), list(children), math.inf
    while running and time.monotonic() < deadline and not until():
        waitables = [w for child in running for w in child.waitables()] + further()
        multiprocessing.connection.wait(waitables, timeout=GRACE_S)
        for child in list(running):
            if child.drain(on_message):
                running.remove(child)
            if len(children) > 1 and child.outcome is not None and child.outcome.error is not None:
                deadline = min(deadline, time.monotonic() + grace_s)
        if is_worker() and os.getppid() != parent:
            raise KeyboardInterrupt


def stop(children: Sequence[Followed], timeout_s: float | None = STOP_AFTER_S) -> None:
    """End children: SIGTERM to all, and SIGKILL to those that still run after the timeout, None for none."""
    for child in children:
        child.terminate(timeout_s)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    for child in children:
        child.end(None if deadline is None else deadline - time.monotonic())


@contextmanager
def stopping(children: Sequence[Followed], on_message: Callable[[Any], None] = lambda _: None) -> Iterator[None]:
    """Stop children at the end of the block.

    Where SIGTERM ends it, they have the time that they need to save, and their messages are handed on meanwhile.
    """
    try:
        yield
    except Terminated:
        for child in children:
            child.terminate()
        follow(children, on_message, grace_s=math.inf)
        raise
    finally:
        stop(children)


def terminate(*_: object) -> None:
    """Handle SIGTERM: end the work of this process with `Terminated`. Further ones are ignored while it saves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated("SIGTERM")


def is_worker() -> bool:
    """True in a process that this module or a parallel launcher has started."""
    return multiprocessing.current_process().name != "MainProcess"


def explain_exit(code: int) -> str:
    """A description of an exit code for people."""
    if code >= 0:
        return f"the process ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ": out of memory, or somebody's kill -9" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


_to_parent: Connection | None = None
"""The connection of a child to the process that started it."""
_sending = threading.Lock()
"""Threads of a child may log while another one reports."""


def send(message: Any) -> None:
    """Send a picklable message from a child to the process that started it."""
    assert _to_parent is not None, "this process was not started by Child"
    with _sending:
        _to_parent.send(message)


def receive() -> Any:
    """Wait in a child for the next message of the process that started it; EOFError if none can come any more."""
    assert _to_parent is not None, "this process was not started by Child"
    return _to_parent.recv()


def failure(error: BaseException) -> Outcome:
    """The outcome of a function that raised; to be called while the exception is handled."""
    kind = type(error) if isinstance(error, CotpressError | KeyboardInterrupt) else None
    return Outcome(error=describe(error), kind=kind, trace=traceback.format_exc(), failed_at=time.monotonic())


def _run(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: Mapping[str, str],
    output: Path | None,
    connection: Connection,
) -> None:
    """Run the function in the new process and send its outcome."""
    global _to_parent
    _to_parent = connection
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, terminate)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    if output is not None:
        _write_to(output)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the server of forked children blocks it
        outcome = Outcome(value=function(*arguments))
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    except BaseException as error:
        outcome = failure(error)
    with suppress(OSError):  # the process that started this one is gone
        send(outcome)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(1.0)  # lets a result that is being written reach the disk
    os._exit(1)


def _write_to(output: Path) -> None:
    """Append standard output and error to a file, those of C code and crash reports of the interpreter included."""
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    faulthandler.enable()
