"""The near side of a measurement: one process per system, told in turn to do one repetition."""

import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cotpress.errors import CotpressError
from experiments.speed.worker import Job, Measurement

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]


class MeasurementError(CotpressError):
    """A measured process died."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One side of a comparison.

    Attributes:
        module: Worker module, e.g. `experiments.speed.naive`.
        job: What it is told.
        python: Interpreter of its environment.
    """

    module: str
    job: Job
    python: Path = Path(sys.executable)


class Process:
    """A system that has loaded its model and waits.

    Args:
        name: For messages and the log file.
        system: What is started.
        logs: Folder for what the process writes to standard error.
    """

    def __init__(self, name: str, system: System, logs: Path) -> None:
        self._name = name
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"{name.replace(' ', '_')}.log"
        paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [system.python, "-m", system.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
            )
        self._say(json.dumps(system.job))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.terminate()
        with contextlib.suppress(BrokenPipeError):  # it may have died before it read its job
            self._process.__exit__(kind, error, trace)  # closes the pipes, which ends the worker, and waits

    def wait_until_ready(self) -> None:
        """Return when the model is loaded and warm."""
        self._answer()

    def repeat(self) -> Measurement:
        """One repetition."""
        self._say("again")
        return Measurement(**json.loads(self._answer()))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return line
        code = self._process.wait()
        tail = "\n".join(self._log.read_text(encoding="utf-8").strip().splitlines()[-8:])
        raise MeasurementError(f"benchmark: the process of '{self._name}' ended with code {code}:\n{tail}")


def alternate(systems: Mapping[str, System], repeats: int, logs: Path) -> dict[str, list[Measurement]]:
    """`repeats` measurements of each system, taken in turns, so that all see the same changes of the machine.

    Every other round goes backwards. Only one process computes at a time; the others wait with their model loaded. Each
    round is told when it is over.

    Raises:
        MeasurementError: A process died.
    """
    measurements: dict[str, list[Measurement]] = {name: [] for name in systems}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(name, system, logs)) for name, system in systems.items()}
        for process in processes.values():
            process.wait_until_ready()
        for number in range(repeats):
            for name in _turn(list(systems), number):
                measurements[name].append(processes[name].repeat())
            taken = ", ".join(f"{name} {measurements[name][-1].seconds:.3g} s" for name in systems)
            log.info("  %d of %d: %s", number + 1, repeats, taken)
    return measurements


def _turn(names: Sequence[str], number: int) -> list[str]:
    return list(reversed(names)) if number % 2 else list(names)
