"""Terminal output of a multirun: one line per finished job, the running jobs, an estimate of the time left.

It is read from the notes that jobs write to disk, so it is the same for jobs that run one by one, in parallel, or on
other machines that share the folder.
"""

import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cotpress.progress import duration
from cotpress.report.stage import outcome
from cotpress.store.redaction import without_secrets
from cotpress.store.sweeps import JobNote, JobState, Sweep, SweepJob, read_sweep
from cotpress.terminal import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

POLL_S = 0.3
QUIET_S = 60.0
"""Seconds without output after which a line names the running jobs, where there is no terminal for a live display."""
_TIMED = re.compile(r"\d\d:\d\d:\d\d (?P<message>.+)")
_WARNING = re.compile(r"^(?:[\d:]+ warning: |[\d-]+ [\d:,]+ WARNING cotpress\S*: )(?P<message>.+)", re.MULTILINE)
"""A warning in the log of a job: as a process of its own writes it, or one that shares a process."""
RECENT_JOBS = 5
"""Jobs that the estimate is based on: the first jobs of a sweep take longer, as they compute the shared artifacts."""


class Watch:
    """Watches the jobs of one multirun in a thread, until `stop`."""

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self._shown: set[int] = set()
        self._warned: set[str] = set()
        self._seconds: list[float] = []
        self._running_since: dict[int, float] = {}  # by the clock of this process, as that of the job may differ
        self._most_running = 1  # most jobs that ran at the same time
        self._started = self._last_line = time.monotonic()
        self._live: Live | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Show the number of jobs and start to watch."""
        sweep = read_sweep(self.sweep_dir)
        many = f"{len(sweep.jobs)} jobs" if sweep.planned else "jobs as the sweeper chooses them"
        self.say(f"sweep: {many}, logs in {self.sweep_dir}/*/job.log")
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(stderr=True), get_renderable=self.shown, refresh_per_second=4, transient=True
            )
            self._live.start()
        self._thread.start()

    def stop(self) -> None:
        """Show the jobs that have ended since the last look, and end the live display."""
        self._ended.set()
        self._thread.join()
        self.look(last=True)
        if self._live is not None:
            self._live.stop()

    def _follow(self) -> None:
        while not self._ended.wait(POLL_S):
            self.look()

    def look(self, *, last: bool = False) -> None:
        """Read the notes once, and show the jobs that have ended since the last look."""
        sweep = read_sweep(self.sweep_dir)
        running = _running(sweep)
        self._most_running = max(self._most_running, len(running))
        for job in running:
            self._running_since.setdefault(job.number, time.monotonic())
        for job in sweep.jobs:
            if job.number in self._shown or job.note is None or job.note.state is JobState.running:
                continue
            self._shown.add(job.number)
            if job.note.state is JobState.finished:
                self._seconds.append(job.note.seconds or 0.0)
            self.say(f"{_headline(sweep, job)}: {_result(job, job.note)}{'' if last else self.left(sweep)}")
            for warning in dict.fromkeys(_warnings(job)):
                if warning not in self._warned:  # the jobs of a sweep often share what it is about
                    self._warned.add(warning)
                    self.say(f"  warning: {warning}")
        if not last and self._live is None and time.monotonic() - self._last_line >= QUIET_S:
            for job in _running(sweep):
                self.say(f"{_headline(sweep, job)} is running: {_last_message(job)}")

    def say(self, text: str) -> None:
        """Write a line above the live display."""
        self._last_line, text = time.monotonic(), one_line(without_secrets(text))
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
            return
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stderr.flush()

    def left(self, sweep: Sweep) -> str:
        """An estimate such as `; about 12 min 30 s left`; empty without finished jobs, or if no job is left."""
        waiting = sum(job.note is None for job in sweep.jobs)
        running = _running(sweep)
        if not self._seconds or not sweep.planned or not (waiting or running):
            return ""
        recent = self._seconds[-RECENT_JOBS:]
        mean = sum(recent) / len(recent)
        now = time.monotonic()
        rest = sum(max(mean - (now - self._running_since.get(job.number, now)), 0.0) for job in running)
        return f"; about {duration((waiting * mean + rest) / self._most_running)} left"

    def shown(self) -> "RenderableType":
        """The live display: a bar over all jobs, and a line for every running job."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        def line(text: str, style: str = "") -> Text:
            return Text(one_line(without_secrets(text)), style=style, overflow="ellipsis", no_wrap=True)

        sweep, done = read_sweep(self.sweep_dir), len(self._shown)
        total = len(sweep.jobs) if sweep.planned else None
        head = f"{done} jobs" if total is None else f"{done}/{total} jobs"
        times = line(f"{duration(time.monotonic() - self._started)}{self.left(sweep)}")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(head, ProgressBar(total=total, completed=done, width=24), times)
        lines = [line(f"  {_headline(sweep, job)}: {_last_message(job)}", "dim") for job in _running(sweep)]
        return Group(bar, *lines)


def _headline(sweep: Sweep, job: SweepJob) -> str:
    many = f" of {len(sweep.jobs)}" if sweep.planned else ""
    return f"job {job.number + 1}{many} ({sweep.label(job)})"


def _result(job: SweepJob, note: JobNote) -> str:
    took = duration(note.seconds or 0.0)
    match note.state:
        case JobState.finished:
            return f"{outcome(note)}, {took}"
        case JobState.found:
            return f"{outcome(note)}, found finished"
        case JobState.interrupted:
            return f"interrupted after {took}"
        case _:
            error = " ".join((note.error or "").split())
            return f"failed after {took}: {error}; log: {job.log}"


def _running(sweep: Sweep) -> list[SweepJob]:
    return [job for job in sweep.jobs if job.note is not None and job.note.state is JobState.running]


def _warnings(job: SweepJob) -> list[str]:
    """The warnings of this package in a job's log."""
    try:
        text = job.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [match["message"] for match in _WARNING.finditer(text)]


def _last_message(job: SweepJob) -> str:
    """The last line of a job's log that starts with a time, without the time; tracebacks have lines without one."""
    try:
        with job.log.open("rb") as handle:
            handle.seek(max(job.log.stat().st_size - 4000, 0))
            lines = handle.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return "starting"
    matches = (_TIMED.fullmatch(line) for line in reversed(lines))
    return next((match["message"] for match in matches if match), "starting")
