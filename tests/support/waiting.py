"""Waiting for the work of another process or thread; a test fails when it does not come in time."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import Popen
from typing import Any, TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], seconds: float, awaited: str, *, job: "Popen[Any] | None" = None, every_s: float = 0.02
) -> T:
    """Return the first true value of a condition.

    A condition that looks for a file of another process must be true only when the file has its content: either the
    process writes it with `announce`, or the condition reads it.

    Args:
        condition: Looks for the state that is awaited.
        seconds: Longest time.
        awaited: Name of the state, for the message.
        job: Process that brings it about.
        every_s: Seconds between two looks.

    Raises:
        AssertionError: The time is over, or the job has ended before.
    """
    deadline = time.monotonic() + seconds
    while True:
        over, code = time.monotonic() >= deadline, None if job is None else job.poll()
        if value := condition():
            return value
        if code is not None:
            raise AssertionError(f"the process ended with exit code {code} before this came: {awaited}")
        if over:
            raise AssertionError(f"this did not come within {seconds:g} s: {awaited}")
        time.sleep(every_s)


def wait_until_gone(processes: Iterable[int], seconds: float = 15.0) -> None:
    """Wait until none of the processes runs.

    Raises:
        AssertionError: The time is over.
    """
    left = list(processes)
    wait_until(lambda: not any(_runs(pid) for pid in left), seconds, f"the end of the processes {left}")


def _runs(pid: int) -> bool:
    """True if there is such a process, which has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def announce(path: Path, text: str = "") -> None:
    """Write a file that others wait for: it exists with all of its text, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
