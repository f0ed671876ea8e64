"""Program that runs a server and ends all of its processes when the process that started this program is gone.

Usage: `python watchdog.py PID COMMAND...`, as the leader of a process group of its own; PID is the starting process.
It ends, by SIGKILL, together with the whole group, also when the server ends by itself and leaves processes behind.
Uses the standard library alone, so that it starts in milliseconds.
"""

import os
import signal
import subprocess
import sys
import time

POLL_S, STOP_AFTER_S = 0.1, 10.0
"""Seconds between two looks at the starting process, and from SIGTERM to SIGKILL."""


def main(parent: int, command: list[str]) -> None:
    """Run the command until it ends or the parent is gone, then end the group."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # sent to the whole group: the server is waited for
    server = subprocess.Popen(command)  # noqa: S603 (the command of the process that started this one)
    while server.poll() is None and os.getppid() == parent:
        time.sleep(POLL_S)
    if server.poll() is None:
        os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + STOP_AFTER_S
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
