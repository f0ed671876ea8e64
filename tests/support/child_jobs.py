"""Functions that tests run in child processes; importable there, and without torch, so that the children start fast."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from cotpress.devices.processes import receive, send
from cotpress.errors import DataError


class SlowToLoad:
    """Takes two seconds to unpickle, and is None then."""

    def __reduce__(self) -> Any:
        return time.sleep, (2.0,)


def run(kind: str, folder: Path) -> Any:
    """Behave in the given way."""
    match kind:
        case "value":
            print("out")
            print("err", file=sys.stderr)
            os.write(1, b"of C code\n")
            return os.environ["COTPRESS_TEST"], os.getpid()
        case "for users":
            raise DataError("row 3 is empty")
        case "defect":
            raise ZeroDivisionError("by nothing")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "waits":
            send("ready")
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                (folder / "interrupted").touch()
                raise
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            send("ready")
            time.sleep(60)
        case "echo":
            while True:
                send(2 * receive())
    return None
