"""The far side of a measurement: a process that prepares once and then measures when it is told to.

Only the standard library at module level: the release's environment, which has no cotpress, imports this file too.
Protocol, one JSON object per line: the job arrives on standard input and is answered by `ready`; every further line
asks for one repetition and is answered by a `Measurement`. Whatever libraries print goes to standard error.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Job = dict[str, Any]
"""Input of a worker, plain JSON values."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One repetition of one system.

    Attributes:
        seconds: Wall time.
        tokens: Tokens of work, in the model's tokenizer; thinking tokens in scoring, each counted once.
        peak_bytes: Peak memory above what was held before (weights, libraries); None where it cannot be measured.
        facts: Anything else worth keeping (JSON values).
    """

    seconds: float
    tokens: int
    peak_bytes: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Meter:
    """Times a stretch of work and notes its peak memory above what was held when it began.

    On a CPU that is the resident set: Linux forgets its high-water mark on request. On a GPU, what torch allocated.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self.seconds = 0.0
        self.peak_bytes: int | None = None

    def __enter__(self) -> "Meter":
        self._held = self._held_now()
        self._reset_peak()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._started
        peak = self._peak()
        if peak is not None and self._held is not None:
            self.peak_bytes = max(peak - self._held, 0)

    def _held_now(self) -> int | None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()
            return int(torch.cuda.memory_allocated())
        return resident("VmRSS")

    def _reset_peak(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def _peak(self) -> int | None:
        if self._cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return resident("VmHWM")


def resident(kind: str) -> int | None:
    """Bytes of this process in memory: `VmRSS` now, `VmHWM` at most; None on systems without /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:")), None)


def serve(prepare: Callable[[Job], Callable[[], Measurement]]) -> None:
    """Answer the process that started this one until it closes standard input.

    Args:
        prepare: Loads what the job needs, warms up and returns what does one repetition.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not break the protocol

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    repeat = prepare(json.loads(sys.stdin.readline()))
    answer("ready")
    for _ in sys.stdin:
        answer(asdict(repeat()))


def use_threads(job: Job) -> None:
    """Give torch the job's number of CPU threads."""
    import torch

    torch.set_num_threads(int(job["threads"]))
