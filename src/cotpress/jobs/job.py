"""One job of an entry script: check its configuration, look for a finished run of it, run it, record how it ended.

A single command runs in this process and writes to the terminal. The jobs of a multirun run one by one, or several at
once under a parallel launcher, each in a process of its own that writes into `job.log`; the terminal shows one line per
job (`watch`). No error of a job reaches Hydra, which would print its own message and stop the sweep.
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

from cotpress.config import CompressConfig, EntryConfig, EvaluateConfig, ReportConfig, Stage, TrainConfig, to_objects
from cotpress.devices.nodes import NotJoinedError, check_alone, find_meeting, join, leading, open_port
from cotpress.devices.processes import Child, Outcome, failure, follow, is_worker, stopping
from cotpress.errors import ConfigError, CotpressError, describe
from cotpress.jobs.folders import occupy
from cotpress.plugins import load_plugins, plugin_names
from cotpress.report.results import write_failure
from cotpress.report.stage import show_ended, show_run
from cotpress.store.artifacts import plain, write_text_atomic
from cotpress.store.redaction import Redacting, shown, without_secrets
from cotpress.store.sweeps import JOB_LOG, JobNote, JobState, read_sweep, write_note
from cotpress.tasks import BENCHMARK_OF_RUNS, PLAN, PLAN_FIX, RUNS, RUNS_ALONE, Result, RunsJob, Task
from cotpress.tasks.run_directory import circumstances, find_finished, note_finished, own_output, run_path

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("cotpress")

PLANNED = "multirun.yaml"
"""File of the sweep's folder in which Hydra records the configuration of a multirun."""
_SHARING_LAUNCHERS = ("BasicLauncher", "JoblibLauncher")
"""Launchers that run several jobs in one process; others, such as submitit's, start a process for each job."""


def run_alone(config: "DictConfig", task: Task, folder: Path, overrides: list[str]) -> float | None:
    """Run the only job of a command, log to its folder, and return its metric."""
    folder = occupy(folder)
    log_to(folder / JOB_LOG, console=True)
    started = time.monotonic()
    note = JobNote(overrides=tuple(overrides), state=JobState.running, started_at=time.time(), pid=os.getpid())
    place = None
    try:
        write_note(folder, note)
        checked = to_objects(config)
        place = run_path(checked) if isinstance(checked, TrainConfig | EvaluateConfig) else None
        planned = isinstance(checked, TrainConfig) and checked.plan
        finished = None if planned else find_finished(checked)
        if finished is not None:
            log.info("found the finished run '%s': nothing has changed, nothing is computed", finished[1])
            if (until := _until(checked)) is None:
                show_run(finished[1])
            else:
                show_ended(finished[1], until.value)
        work: EntryConfig | RunsJob = checked
        if planned:
            task = PLAN
        elif isinstance(checked, EvaluateConfig) and checked.runs is not None:
            given = tuple(text for text in overrides if text != BENCHMARK_OF_RUNS)
            task, work = RUNS, RunsJob(config=checked, given=given)
        metric, run_dir = finished or perform(task, work, folder)
        note = replace(note, state=JobState.found if finished else JobState.finished)
    except Exception as error:
        logging.getLogger("cotpress.file").exception("the job failed")
        with suppress(OSError):  # on a full disk the error itself is reported
            failed = replace(note, state=JobState.failed, error=describe(error), seconds=time.monotonic() - started)
            write_note(folder, failed)
            if place is not None and place.exists() and not isinstance(error, NotJoinedError):
                write_failure(place, describe(error))
        raise
    write_note(folder, replace(note, run_dir=run_dir, metric=metric, seconds=time.monotonic() - started))
    return metric


def run_in_sweep(config: "DictConfig", task: Task, folder: Path, overrides: list[str], launcher: Any) -> float:
    """Run one job of a multirun and return its metric, NaN if it fails."""
    if is_worker():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the sweep's own decides
    if read_sweep(folder.parent).hopeless:
        if folder.name == "2":
            sys.stderr.write("the first two jobs failed for the same reason: the others are not run\n")
        return math.nan
    started = time.monotonic()
    note = JobNote(overrides=tuple(overrides), state=JobState.running, started_at=time.time())
    write_note(folder, note)
    planned = folder.parent / PLANNED
    if planned.is_file():  # Hydra writes it before the configuration can be checked for secrets
        text = planned.read_text(encoding="utf-8")
        if (clean := without_secrets(text)) != text:
            write_text_atomic(planned, clean)
    try:
        note = _performed(note, config, task, folder, launcher)
    except KeyboardInterrupt:
        write_note(folder, replace(note, state=JobState.interrupted, seconds=time.monotonic() - started))
        raise
    except Exception as error:
        with (folder / JOB_LOG).open("a", encoding="utf-8") as handle:
            handle.write(shown(traceback.format_exc()))
        note = replace(note, state=JobState.failed, error=describe(error), for_user=isinstance(error, CotpressError))
    write_note(folder, replace(note, seconds=time.monotonic() - started))
    return math.nan if note.metric is None else note.metric


def _performed(note: JobNote, config: "DictConfig", task: Task, folder: Path, launcher: Any) -> JobNote:
    load_plugins(plugin_names(note.overrides))  # in the worker of a launcher
    checked = to_objects(config)
    if isinstance(checked, TrainConfig) and checked.plan:
        raise ConfigError(f"plan: got true in a multirun. {PLAN_FIX}")
    if isinstance(checked, EvaluateConfig) and checked.runs is not None:
        raise ConfigError(RUNS_ALONE)
    if (until := _until(checked)) is not None and not read_sweep(folder.parent).planned:
        raise ConfigError(
            f"until: got {until.value}, but this sweeper chooses its jobs by the accuracy of the earlier ones, which a "
            "run that ends early has none of. Fix: leave out until"
        )
    if isinstance(checked, CompressConfig) and checked.output is not None:
        checked = replace(checked, output=own_output(checked.output, read_sweep(folder.parent), note.overrides))
    finished = find_finished(checked)
    if finished is not None:
        metric, run_dir = finished
        return replace(note, state=JobState.found, metric=metric, run_dir=run_dir)
    place = run_path(checked) if isinstance(checked, TrainConfig | EvaluateConfig) else None
    if str(launcher.get("_target_", "")).rpartition(".")[2] in _SHARING_LAUNCHERS:
        if not isinstance(checked, ReportConfig) and checked.trainer.num_nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes: got {checked.trainer.num_nodes} in a multirun, whose jobs run here. Fix: "
                "hydra/launcher=submitit_slurm hydra.launcher.nodes=N, or leave out -m"
            )
        _share_cores(checked, launcher.get("n_jobs", 1))
        outcome = _perform_in_child(task, checked, folder, replace(note, run_dir=place))
    else:
        log_to(folder / JOB_LOG, console=False)
        _check_tasks(launcher, 1 if isinstance(checked, ReportConfig) else checked.trainer.num_nodes)
        try:
            outcome = Outcome(value=perform(task, checked, folder))
        except Exception as error:
            log.exception("the job failed")
            outcome = failure(error)
    if outcome.error is None:
        metric, run_dir = outcome.value
        return replace(note, state=JobState.finished, metric=metric, run_dir=run_dir)
    if place is not None and outcome.kind is not NotJoinedError:
        write_failure(place, outcome.error)
    for_user = outcome.kind is not None
    return replace(note, state=JobState.failed, error=outcome.error, for_user=for_user, run_dir=place)


def _perform_in_child(task: Task, config: EntryConfig, folder: Path, note: JobNote) -> Outcome:
    """Do the work of a job in a child process, whose id is added to the note."""
    job = Child(perform_logged, (task, config, folder), output=folder / JOB_LOG, preload=[task.preload])
    with stopping([job]):
        write_note(folder, replace(note, pid=job.pid))
        follow([job])
    assert job.outcome is not None
    return job.outcome


def _check_tasks(launcher: Any, num_nodes: int) -> None:
    """Refuse several tasks per machine, as stages start the processes of the devices themselves, and other machines."""
    if (nodes := launcher.get("nodes", 1)) != num_nodes:
        raise ConfigError(
            f"hydra.launcher.nodes: got {nodes}, but trainer.num_nodes={num_nodes}. Fix: the same number for both"
        )
    num_tasks = launcher.get("tasks_per_node", 1)
    if num_tasks != 1:
        raise ConfigError(
            f"hydra.launcher.tasks_per_node: got {num_tasks}, allowed: 1, because a job starts one process per device "
            f"itself. Fix: hydra.launcher.tasks_per_node=1 hydra.launcher.gpus_per_node={num_tasks} "
            f"trainer.devices={num_tasks}"
        )


def _until(config: EntryConfig) -> Stage | None:
    return config.until if isinstance(config, TrainConfig) else None


def perform(task: Task, config: EntryConfig | RunsJob, folder: Path) -> Result:
    """Do the work of a job; of several machines the first one does it, and the others work for it."""
    if isinstance(config, RunsJob):
        check_alone()
    if isinstance(config, RunsJob | ReportConfig) or task == PLAN:
        return _perform(task, config, folder)
    num_nodes = config.trainer.num_nodes
    if num_nodes == 1:
        if not (isinstance(config, CompressConfig) and config.shard is not None):  # of which each is a job of its own
            check_alone()
        return _perform(task, config, folder)
    from cotpress.devices.launch import work_for

    meeting, place, settings = find_meeting(config.trainer), Path(config.output_root), plain(config)
    port = open_port(meeting)
    if isinstance(port, str):
        result: Result = work_for(join(meeting, place, settings, port))
        return result
    with leading(port, meeting, num_nodes, place, settings) as results:
        results.append(_perform(task, config, folder))
    return results[0]  # type: ignore[no-any-return]


def _perform(task: Task, config: EntryConfig | RunsJob, folder: Path) -> Result:
    """Check what a job needs, do its work, and record in its run directory that it is finished."""
    around = None
    if isinstance(config, TrainConfig | EvaluateConfig) and task != PLAN:
        around = circumstances(config)
    run = task.load()
    task.check(config)
    metric, run_dir = run(config, folder)
    if around is not None and run_dir is not None:
        note_finished(run_dir, metric, around, config.until if isinstance(config, TrainConfig) else None)
    return metric, run_dir


def perform_logged(task: Task, config: EntryConfig, folder: Path) -> Result:
    """Do the work of a job in a child process, whose standard error is the job's log."""
    log_to(None, console=True)
    try:
        load_plugins(config.plugins)
        return perform(task, config, folder)
    except KeyboardInterrupt:
        log.info("stopped")
        raise
    except BaseException:
        log.exception("the job failed")
        raise


def log_to(path: Path | None, *, console: bool) -> None:
    """Log everything to a file, and plain lines of this package to standard error."""
    handlers: list[logging.Handler] = []
    if console:
        lines = logging.StreamHandler(sys.stderr)
        lines.setFormatter(_Lines("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        if path is not None:
            lines.addFilter(lambda record: record.name.startswith("cotpress") and record.name != "cotpress.file")
        handlers.append(lines)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _JobLogHandler(path, encoding="utf-8")
        file.setFormatter(Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)  # warnings of libraries belong in the file, not between the progress lines


class _Lines(Redacting):
    """Lines of a time and a message; a warning of this package is named as one."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        line = super().format(record)
        is_warning = record.levelno == logging.WARNING and record.name.startswith("cotpress")
        return line.replace(" ", " warning: ", 1) if is_warning else line


class _JobLogHandler(logging.FileHandler):
    """Drops lines of the log on a full disk, so that the work goes on; what needs the disk reports the error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is logging's)
        """Leave out the traceback that logging would print for every line."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _share_cores(config: EntryConfig, num_jobs: int) -> None:
    """Divide the cores among parallel jobs: several that each use all of them are slower than one after the other."""
    trainer = None if isinstance(config, ReportConfig) else config.trainer
    if num_jobs != 1 and trainer is not None and trainer.num_threads is None:
        cores = os.cpu_count() or 1
        trainer.num_threads = max(1, cores // (num_jobs if num_jobs > 0 else cores))
