"""Progress display of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from typing import Self

from cotpress.terminal import one_line

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0  # seconds between two plain progress lines

_SAMPLE = 0.05  # fraction of this call's work after which a rate is shown


class Progress:
    """Context manager that displays progress towards a known total.

    Outside a terminal, work of a few seconds prints nothing.

    Args:
        label: Name of the work, e.g. `score cts`.
        total: Amount of work, in `unit`.
        unit: Counted unit, e.g. `tokens`.
        done: Work of an earlier, interrupted call.
    """

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self._label, self._total, self._unit = one_line(label), max(total, 1), unit
        self._done = self._resumed = done
        self._started = self._last_line = time.monotonic()
        self._bar = _rich_bar(self._label, self._total, unit, done) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: int, note: str = "") -> None:
        """Add `amount` units to the finished work; `note` (e.g. the loss) is shown beside the rate."""
        self._done, note = self._done + amount, one_line(note)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=amount, note=f", {note}" if note else "")
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            log.info(
                "%s: %d/%d %s (%.0f %%)%s%s",
                self._label, self._done, self._total, self._unit, 100 * self._done / self._total,
                self._pace(), f", {note}" if note else "",
            )  # fmt: skip

    def _pace(self) -> str:
        """Rate and time left; empty at the beginning, where one slow batch would distort the estimate."""
        done = self._done - self._resumed
        if done < _SAMPLE * (self._total - self._resumed):
            return ""
        per_second = done / max(time.monotonic() - self._started, 1e-9)
        left = (self._total - self._done) / max(per_second, 1e-9)
        return f", {per_second:.1f} {self._unit}/s, {duration(left)} left"


def duration(seconds: float) -> str:
    """Format `seconds`: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _rich_bar(label: str, total: int, unit: str, done: int):  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else "", style="cyan")

    whole = Column(no_wrap=True)
    bar = RichProgress(
        TextColumn("{task.description}", markup=False, table_column=whole),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),  # the remaining width
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}", table_column=whole),
        Rate(table_column=whole),
        TimeRemainingColumn(table_column=whole),
        TextColumn("left{task.fields[note]}", markup=False, table_column=whole),
        console=Console(stderr=True),
        expand=True,
    )
    bar.add_task(label, total=total, completed=done, note="")
    return bar
