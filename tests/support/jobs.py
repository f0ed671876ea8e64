"""Functions that tests run in other processes; importable there, unlike a test module."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cotpress.store.artifacts import ArtifactStore, Summary


def slow_job(root: Path, counter: Path, seconds: float) -> None:
    """Build an artifact that takes `seconds`, and count the computations."""

    def produce(folder: Path) -> Summary:
        with counter.open("a") as handle:
            handle.write("x")
        time.sleep(seconds)
        (folder / "rows.txt").write_text("done")
        return Summary(num_rows=1)

    ArtifactStore(root).build("data", {}, produce)


def dies_once(make: Callable[[], Any], flag: Path) -> Any:
    """Return the result of `make`; the first process that calls this is killed."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return make()
    os.kill(os.getpid(), signal.SIGKILL)
    return None
