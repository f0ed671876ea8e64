"""A job in a process of its own, forked from a server that has imported everything already.

What kills a job (no memory, a broken driver, `kill -9`) kills nothing else, what a job holds on a GPU is free when it
ends, and no job waits for imports: the server imports the task's module once, computes nothing, and forks.
"""

import faulthandler
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cotpress.errors import describe

STOP_AFTER_S = 15.0
"""How long a job that is told to stop may take, to finish its W&B run for example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job in a process of its own ended.

    Attributes:
        value: What it returned; None if it failed.
        error: Why it failed.
    """

    value: Any = None
    error: str | None = None


def run_isolated(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    job_log: Path,
    preload: str,
    started: Callable[[int], None],
) -> Outcome:
    """Call a function in a process of its own and wait for it.

    Args:
        function: Of a module, so that it can be pickled.
        arguments: What it gets; pickled as well.
        job_log: File that takes everything the process writes, logging included; it is appended to.
        preload: Module that the server imports, once for all jobs of this process.
        started: Called with the process id.

    Raises:
        KeyboardInterrupt: This process was interrupted; the job has been stopped.
    """
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A worker of joblib has a start method of its own, which a child would inherit and not know.
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, arguments, job_log, dict(os.environ), sending))
    process.start()
    sending.close()
    assert process.pid is not None
    try:
        started(process.pid)
        _wait(process, receiving)
        outcome: Outcome | None = receiving.recv() if receiving.poll() else None
        process.join()
    except EOFError:  # it closed the pipe by dying
        process.join()
        outcome = None
    except BaseException:
        _stop(process)
        raise
    return outcome or Outcome(error=died(process.exitcode))


def is_worker() -> bool:
    """True in a process that a parallel launcher has started."""
    return multiprocessing.current_process().name != "MainProcess"


def _wait(process: BaseProcess, receiving: Connection) -> None:
    """Wait for a result or the end of the process; end with it if the sweep's own process is gone."""
    parent = os.getppid()
    while not multiprocessing.connection.wait([receiving, process.sentinel], timeout=1.0):
        if is_worker() and os.getppid() != parent:
            raise KeyboardInterrupt


def _stop(process: BaseProcess) -> None:
    process.terminate()
    process.join(STOP_AFTER_S)
    if process.is_alive():
        process.kill()
        process.join()


def died(code: int | None) -> str:
    """How a process ended, from its exit code, for people."""
    if code is None or code >= 0:
        return f"the process ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ": out of memory, or somebody's kill -9" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def _work(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    job_log: Path,
    environment: Mapping[str, str],
    sending: Connection,
) -> None:
    """In the new process: everything it writes goes to the log, the result to the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches a whole terminal; who waits for us decides
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    _write_to(job_log)
    try:
        sending.send(Outcome(value=function(*arguments)))
    except KeyboardInterrupt:
        logging.getLogger("cotpress").info("stopped")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException as error:
        logging.getLogger("cotpress").exception("the job failed")
        sending.send(Outcome(error=describe(error)))


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, also by `kill -9`, and end; for a thread."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(1.0)  # a result that is on its way may arrive
    os._exit(1)


def _write_to(job_log: Path) -> None:
    """Standard output and error, also of C code, and a traceback if the interpreter itself breaks."""
    handle = os.open(job_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    faulthandler.enable()
