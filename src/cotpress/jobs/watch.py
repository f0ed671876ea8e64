"""What a terminal shows of a multirun: one line per job, what is running now, how long the rest will take.

All of it is read from the notes that jobs leave on disk, so it is the same whether they run one by one, in parallel, or
on other machines that share the folder.
"""

import re
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cotpress.progress import duration
from cotpress.report.sweep import outcome
from cotpress.store.sweeps import JobState, Sweep, SweepJob, read_sweep

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

POLL_S = 0.3
QUIET_S = 60.0
"""After so long without a line, one says what is running, where there is no terminal to show it all the time."""
_TIMED = re.compile(r"\d\d:\d\d:\d\d (?P<words>.+)")
RECENT_JOBS = 5
"""Jobs behind the estimate of what is left: the first ones also do what all of them share."""


class Watch:
    """Follows the jobs of one multirun in a thread of its own, until `stop`.

    Args:
        sweep_dir: Folder of the sweep.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self._told: set[int] = set()
        self._seconds: list[float] = []
        self._abreast = 1  # most jobs seen running at once
        self._started = self._last_line = time.monotonic()
        self._live: Live | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Say what is ahead and begin to follow."""
        sweep = read_sweep(self.sweep_dir)
        many = f"{len(sweep.jobs)} jobs" if sweep.planned else "jobs as the sweeper chooses them"
        _line(f"sweep: {many}, logs in {self.sweep_dir}/*/job.log")
        if sys.stderr.isatty():
            self._live = _live(self)
            self._live.start()
        self._thread.start()

    def stop(self) -> None:
        """Tell what is still to be told."""
        self._ended.set()
        self._thread.join()
        self.look(last=True)
        if self._live is not None:
            self._live.stop()

    def _follow(self) -> None:
        while not self._ended.wait(POLL_S):
            self.look()

    def look(self, *, last: bool = False) -> None:
        """Read the notes once, and tell what is new."""
        sweep = read_sweep(self.sweep_dir)
        self._abreast = max(self._abreast, len(_running(sweep)))
        ended = [j for j in sweep.jobs if j.note is not None and j.note.state is not JobState.running]
        for job in ended:
            if job.number not in self._told:
                self._told.add(job.number)
                if job.note is not None and job.note.state is JobState.finished:
                    self._seconds.append(job.note.seconds or 0.0)
                self._say(f"{_headline(sweep, job)}: {_result(job)}{'' if last else self.left(sweep)}")
        if not last and self._live is None and time.monotonic() - self._last_line >= QUIET_S:
            for job in _running(sweep):
                self._say(f"{_headline(sweep, job)} is running: {_last_words(job)}")

    def _say(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._live is None:
            _line(text)
        else:
            self._live.console.print(text, markup=False, highlight=False)

    def left(self, sweep: Sweep) -> str:
        """An estimate such as `; about 12 min 30 s left`; empty if there is nothing to base it on, or nothing left."""
        waiting = sum(job.note is None for job in sweep.jobs)
        running = _running(sweep)
        if not self._seconds or not sweep.planned or not (waiting or running):
            return ""
        recent = self._seconds[-RECENT_JOBS:]
        mean = sum(recent) / len(recent)
        now = time.time()  # of this and of other processes; should the clock be set, no job lasts longer than the mean
        since = [now - job.note.started_at for job in running if job.note is not None]
        rest = sum(min(max(mean - seconds, 0.0), mean) for seconds in since)
        return f"; about {duration((waiting * mean + rest) / self._abreast)} left"

    def shown(self) -> "RenderableType":
        """The live part: a bar over all jobs, and a line for every job that is running."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        sweep = read_sweep(self.sweep_dir)
        bar = Table.grid(padding=(0, 1))
        head = f"{len(self._told)}/{len(sweep.jobs)} jobs" if sweep.planned else f"{len(self._told)} jobs"
        times = Text(
            f"{duration(time.monotonic() - self._started)}{self.left(sweep)}", overflow="ellipsis", no_wrap=True
        )
        total = len(sweep.jobs) if sweep.planned else None
        bar.add_row(head, ProgressBar(total=total, completed=len(self._told), width=24), times)
        lines = [
            Text(f"  {_headline(sweep, job)}: {_last_words(job)}", style="dim", overflow="ellipsis", no_wrap=True)
            for job in _running(sweep)
        ]
        return Group(bar, *lines)


def _live(watch: Watch) -> "Live":
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(stderr=True), get_renderable=watch.shown, refresh_per_second=4, transient=True)


def _headline(sweep: Sweep, job: SweepJob) -> str:
    many = f" of {len(sweep.jobs)}" if sweep.planned else ""
    return f"job {job.number + 1}{many} ({sweep.label(job)})"


def _result(job: SweepJob) -> str:
    note = job.note
    assert note is not None
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


def _last_words(job: SweepJob) -> str:
    """The last line of a job's log that has a time, without it; a warning or traceback goes over several without."""
    try:
        with job.log.open("rb") as handle:
            handle.seek(max(job.log.stat().st_size - 4000, 0))
            lines = handle.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return "starting"
    found = (_TIMED.fullmatch(line) for line in reversed(lines))
    return next((match["words"] for match in found if match), "starting")


def _line(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
