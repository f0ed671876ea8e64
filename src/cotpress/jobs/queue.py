"""Lines on jobs that wait in the queue of SLURM, with the reason that it gives: some of them never start.

SLURM accepts a job with a time limit above that of its partition, or on more memory than any machine has, and keeps it
in the queue. `squeue` knows why.
"""

import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from cotpress.jobs.multirun import say

FIRST_S = 10.0
"""Seconds until the first look at the queue."""
POLL_S = 60.0
_USUAL = {"None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Dependency", "Cleaning"}
"""Reasons that pass by themselves: other jobs are before these."""
_SETTINGS = {
    "PartitionTimeLimit": "timeout_min",
    "PartitionNodeLimit": "nodes",
    "BadConstraints": "constraint",
    "ReqNodeNotAvail": "constraint",
    "AccountNotAllowed": "account",
    "InvalidAccount": "account",
    "InvalidQOS": "qos",
}
"""Settings of `hydra.launcher` by the reasons that are about them."""
_LIMIT = re.compile(r"Max(?P<kind>Wall|Cpu|GRES|Mem|Node)\w*PerJob")
"""Limits of a single job; those of a user's jobs together are usual."""
_OF_LIMITS = {
    "Wall": "timeout_min", "Cpu": "cpus_per_task", "GRES": "gpus_per_node", "Mem": "mem_gb", "Node": "nodes",
}  # fmt: skip


@contextmanager
def watched_queue(ids: Sequence[str]) -> Iterator[None]:
    """Show once why jobs wait, whenever the reasons change, until the block ends; nothing without `ids`."""
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(ids, ended), daemon=True)
    if ids:
        thread.start()
    try:
        yield
    finally:
        ended.set()


def _follow(ids: Sequence[str], ended: threading.Event) -> None:
    arrays = ",".join(dict.fromkeys(id_.partition("_")[0] for id_ in ids))
    told, pause = "", FIRST_S
    while not ended.wait(pause):
        pause = POLL_S
        with suppress(OSError, subprocess.SubprocessError):
            asked = ["squeue", "--noheader", "--array", "--states=PENDING", "--format=%r", f"--jobs={arrays}"]
            done = subprocess.run(  # noqa: S603 (the ids are those of SLURM)
                asked, capture_output=True, text=True, timeout=60, check=True
            )
            if (line := waiting(done.stdout.split("\n"))) and line != told:
                told = line
                say(line)


def waiting(reasons: Sequence[str]) -> str:
    """A line on jobs that wait for something else than their turn; empty if there are none.

    Args:
        reasons: The reason of each waiting job, as `squeue` writes it.
    """
    counts = Counter(name for reason in reasons if (name := re.split(r"[,(\s]", reason.strip())[0]))
    parts = []
    for name, count in counts.most_common():
        limit = _LIMIT.search(name)
        if name in _USUAL or ("Max" in name and limit is None):
            continue
        setting = _SETTINGS.get(name) or (_OF_LIMITS.get(limit["kind"]) if limit else None)
        fix = f". Fix: Ctrl-C, then the command with another hydra.launcher.{setting}" if setting else ""
        parts.append(f"{count} {'job waits' if count == 1 else 'jobs wait'} in the queue of SLURM: {name}{fix}")
    return "; ".join(parts)
