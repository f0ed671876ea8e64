"""One job of an entry script: check its configuration, see whether it is done already, run it, note how it ended.

A single command runs in this process and talks to the terminal. The jobs of a multirun run one by one, or several at
once under a parallel launcher, each in a process of its own that writes into `job.log`; the terminal gets one line per
job from `sweep_watch`. No error of a job reaches Hydra, which would print its own message and stop the sweep.
"""

import logging
import math
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.config import CompressConfig, EntryConfig, EvaluateConfig, TrainConfig, to_objects
from cotpress.devices.isolation import Outcome, is_worker, run_isolated
from cotpress.errors import ConfigError, describe
from cotpress.plugins import load_plugins
from cotpress.report.results import write_failure
from cotpress.report.sweep import show_run
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.redaction import Redacting, without_secrets
from cotpress.store.sweeps import JOB_LOG, JobNote, JobState, read_sweep, write_note
from cotpress.tasks import PLAN, Task
from cotpress.tasks.run_directory import circumstances, find_finished, note_finished, own_output, run_path

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("cotpress")

PLANNED = "multirun.yaml"
"""Hydra's own record of a multirun, in the sweep's folder."""
_SHARING_LAUNCHERS = ("BasicLauncher", "JoblibLauncher")
"""Launchers whose jobs share processes; others, such as submitit's, give every job its own."""


def run_alone(config: "DictConfig", task: Task, folder: Path, overrides: list[str]) -> float | None:
    """The only job of a command.

    Args:
        config: As Hydra composed it.
        task: The work; its modules are imported only if there is something to do.
        folder: Where its log goes.
        overrides: Its part of the command line.
    """
    log_to(folder / JOB_LOG, console=True)
    started = time.monotonic()
    note = JobNote(overrides=tuple(overrides), state=JobState.running, started_at=time.time(), pid=os.getpid())
    try:
        checked = to_objects(config)
        planned = isinstance(checked, TrainConfig) and checked.plan
        task = PLAN if planned else task
        found = None if planned else _found(checked)
        if found is not None:
            log.info("found the finished run '%s': nothing has changed, nothing is computed", found[1])
            show_run(found[1])
        metric, run_dir = found or perform(task, checked, folder)
        state = JobState.found if found is not None else JobState.finished
    except Exception as error:
        logging.getLogger("cotpress.file").exception("the job failed")
        with suppress(OSError):  # a full disk takes no note; the error itself is what is told
            failed = replace(note, state=JobState.failed, error=describe(error), seconds=time.monotonic() - started)
            write_note(folder, failed)
        raise
    write_note(folder, replace(note, state=state, run_dir=run_dir, metric=metric, seconds=time.monotonic() - started))
    return metric


def run_in_sweep(config: "DictConfig", task: Task, folder: Path, overrides: list[str], launcher: Any) -> float:
    """One job of a multirun; NaN if it fails. Arguments as in `run_alone`, and the configuration of the launcher."""
    if is_worker():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches a whole terminal; the sweep's own process decides
    started = time.monotonic()
    note = JobNote(overrides=tuple(overrides), state=JobState.running, started_at=time.time())
    write_note(folder, note)
    _mask(folder.parent / PLANNED)
    try:
        note = _performed(note, config, task, folder, launcher)
    except KeyboardInterrupt:
        write_note(folder, replace(note, state=JobState.interrupted, seconds=time.monotonic() - started))
        raise
    except Exception as error:
        with (folder / JOB_LOG).open("a", encoding="utf-8") as handle:
            handle.write(without_secrets(traceback.format_exc()))
        note = replace(note, state=JobState.failed, error=describe(error))
    write_note(folder, replace(note, seconds=time.monotonic() - started))
    return math.nan if note.metric is None else note.metric


def _performed(note: JobNote, config: "DictConfig", task: Task, folder: Path, launcher: Any) -> JobNote:
    checked = to_objects(config)
    if isinstance(checked, CompressConfig):
        checked = replace(checked, output=own_output(checked.output, read_sweep(folder.parent), note.overrides))
    found = _found(checked)
    if found is not None:
        metric, run_dir = found
        return replace(note, state=JobState.found, metric=metric, run_dir=run_dir)
    place = run_path(checked) if isinstance(checked, TrainConfig | EvaluateConfig) else None
    launcher_name = str(launcher.get("_target_", "")).rpartition(".")[2]
    if launcher_name in _SHARING_LAUNCHERS:
        _share_cores(checked, launcher.get("n_jobs", 1))
        begun = replace(note, run_dir=place)
        outcome = run_isolated(
            perform_in_child,
            (task, checked, folder),
            job_log=folder / JOB_LOG,
            preload=task.preload,
            started=lambda pid: write_note(folder, replace(begun, pid=pid)),
        )
    else:
        log_to(folder / JOB_LOG, console=False)
        _check_tasks(launcher)
        outcome = _perform_here(task, checked, folder)
    if outcome.error is None:
        metric, run_dir = outcome.value
        return replace(note, state=JobState.finished, metric=metric, run_dir=run_dir)
    if place is not None:
        write_failure(place, outcome.error)
    return replace(note, state=JobState.failed, error=outcome.error, run_dir=place)


def _perform_here(task: Task, config: EntryConfig, folder: Path) -> Outcome:
    """The work of a job that has this process to itself."""
    try:
        return Outcome(value=perform(task, config, folder))
    except Exception as error:
        log.exception("the job failed")
        return Outcome(error=describe(error))


def _check_tasks(launcher: Any) -> None:
    """One task per machine: the processes of its devices are started by whichever stage needs them.

    Raises:
        ConfigError: There are more.
    """
    num_tasks = launcher.get("tasks_per_node", 1)
    if num_tasks != 1:
        raise ConfigError(
            f"hydra.launcher.tasks_per_node: got {num_tasks}, allowed: 1, because a job starts one process per device "
            f"itself. Fix: hydra.launcher.tasks_per_node=1 hydra.launcher.gpus_per_node={num_tasks} "
            f"trainer.devices={num_tasks}"
        )


def perform(task: Task, config: EntryConfig, folder: Path) -> tuple[float | None, Path | None]:
    """Do the work of a job, and note that it is done."""
    around = None
    if isinstance(config, TrainConfig | EvaluateConfig) and task != PLAN:
        around = circumstances(config)
    metric, run_dir = task.run(config, folder)
    if around is not None and run_dir is not None:
        note_finished(run_dir, metric, around)
    return metric, run_dir


def perform_in_child(task: Task, config: EntryConfig, folder: Path) -> tuple[float | None, Path | None]:
    """The same in a process of its own, whose standard error is the job's log already."""
    log_to(None, console=True)
    load_plugins(config.plugins)
    return perform(task, config, folder)


def log_to(path: Path | None, *, console: bool) -> None:
    """Log everything to a file, and plain lines of this package to standard error."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    if console:
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(Redacting("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        if path is not None:
            lines.addFilter(lambda record: record.name.startswith("cotpress") and record.name != "cotpress.file")
        root.addHandler(lines)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _JobLogHandler(path, encoding="utf-8")
        file.setFormatter(Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)  # warnings of libraries belong in the file, not between the progress lines


class _JobLogHandler(logging.FileHandler):
    """A full disk loses lines of the log, not the work, and is told once by whatever cannot go on without it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        """Leave out the traceback that logging would print for every line."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _found(config: EntryConfig) -> tuple[float | None, Path] | None:
    return find_finished(config) if isinstance(config, TrainConfig | EvaluateConfig) else None


def _mask(path: Path) -> None:
    """Take secrets out of what Hydra itself writes: the configuration of a multirun before anybody could refuse it."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if (clean := without_secrets(text)) != text:
            write_text_atomic(path, clean)


def _share_cores(config: EntryConfig, num_jobs: int) -> None:
    """Parallel jobs that each take all cores are slower than one after the other."""
    trainer = getattr(config, "trainer", None)
    if num_jobs != 1 and trainer is not None and trainer.num_threads is None:
        cores = os.cpu_count() or 1
        trainer.num_threads = max(1, cores // (num_jobs if num_jobs > 0 else cores))
