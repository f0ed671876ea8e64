"""What the four entry scripts share: Hydra, clear messages, logging, exit codes.

Hydra composes the configuration and calls a task with plain objects. Errors that a user can act on are printed as
one message without a stack trace; the whole traceback always goes to the job's log file.
"""

import importlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.completion import SWITCHES, shell_completion
from cotpress.errors import ConfigError, CotpressError
from cotpress.help_page import help_page

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger("cotpress")

JOB_FILE = "job.json"
"""In every job's log folder: where its run directory is, or why there is none."""

Task = Callable[[Any, Path], tuple[float | None, Path | None]]
"""Gets the checked configuration and the job's log folder; returns the metric to optimise and the run directory."""


def main(name: str, conf: Path, task: str) -> None:
    """Run one entry script and leave the process with its exit code.

    Args:
        name: Primary configuration, e.g. `train`.
        conf: Folder of the configuration groups.
        task: `module:function` of the `Task`, imported only when a job really runs.
    """
    try:
        if _answered_at_once(name, conf, sys.argv[1:]):
            return
    except ConfigError as error:
        _stop(str(error), 2)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of being printed by Hydra
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what the hub retries is told once, when it has failed
    import hydra

    from cotpress.config import register_schemas
    from cotpress.config_errors import check_dashes, explain

    register_schemas()

    failures = _Failures()

    @hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name=name)
    def job(config: "DictConfig") -> float | None:
        return _run_job(config, task, failures)

    try:
        check_dashes(sys.argv[1:], name, conf)
        job()
        if failures.count == 1 and failures.first is not None and not failures.multirun:
            raise failures.first
    except KeyboardInterrupt:
        _stop("interrupted. What was finished is kept; the same command goes on from there.", 130)
    except CotpressError as error:
        _stop(str(error), 2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        message = explain(error, name, conf)
        if message is None:
            raise
        _stop(message, 1 if isinstance(error, OSError) and error.filename else 2)  # what is wrong is outside
    if failures.count:
        _stop(f"{failures.count} of the jobs failed; their logs hold the tracebacks. The others are kept.", 1)


def _answered_at_once(name: str, conf: Path, arguments: list[str]) -> bool:
    """Help and tab completion, which need no configuration; False if something else is wanted."""
    asking = next((i for i, a in enumerate(arguments) if a in ("--help", "-h")), None)
    if asking is not None:
        sys.stdout.write(help_page(name, conf, arguments[asking + 1 :]))
    elif set(SWITCHES) & set(arguments):
        sys.stdout.write(shell_completion(name, conf, arguments, os.environ))
    else:
        return False
    return True


class _Failures:
    """Errors of jobs: Hydra must not see them, or it prints its own message and stops the sweep."""

    def __init__(self) -> None:
        self.count = 0
        self.multirun = False
        self.first: BaseException | None = None

    def add(self, error: BaseException) -> None:
        self.count += 1
        self.first = self.first or error


def _stop(message: str, code: int) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"\nerror: {message}\n")
    sys.exit(code)


def _run_job(config: "DictConfig", task: str, failures: _Failures) -> float | None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from cotpress.config import to_objects

    folder = Path(HydraConfig.get().runtime.output_dir)
    failures.multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    overrides = list(HydraConfig.get().overrides.task)
    _log_to(folder / "job.log")
    try:
        checked = to_objects(config)
        module, _, function = task.partition(":")
        run: Task = getattr(importlib.import_module(module), function)
        metric, run_dir = run(checked, folder)
        _note_job(folder, overrides, run_dir=run_dir)
        return metric
    except Exception as error:
        logging.getLogger("cotpress.file").exception("the job failed")
        _note_job(folder, overrides, error=f"{type(error).__name__}: {error}")
        failures.add(error)
        if failures.multirun:
            log.error("job failed (%s): %s; the sweep goes on", " ".join(overrides), error)
        return math.nan


def _note_job(folder: Path, overrides: list[str], run_dir: Path | None = None, error: str | None = None) -> None:
    from cotpress.artifacts import write_text_atomic

    note = {"overrides": overrides, "run_dir": None if run_dir is None else str(run_dir), "error": error}
    write_text_atomic(folder / JOB_FILE, json.dumps(note, indent=1) + "\n")


def _log_to(path: Path) -> None:
    """Plain lines on standard error, everything in the job's own log file."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    console.addFilter(lambda record: record.name.startswith("cotpress") and record.name != "cotpress.file")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(console)
    root.addHandler(file)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)  # warnings of libraries belong in the file, not between the progress lines


class MultirunTable:
    """Hydra callback: after a multirun, one table and one plot over all its jobs.

    Hydra calls it at the end only; the same files come from `report.py`, which needs nothing but the disk.
    """

    def on_multirun_end(self, config: "DictConfig", **_: object) -> None:
        """Collect the jobs of this sweep from their notes on disk."""
        from cotpress.report.sweep import report_jobs

        report_jobs(Path(config.hydra.sweep.dir), JOB_FILE)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Hydra calls every event of its callback interface; all others are ignored."""
        if name.startswith("on_"):
            return lambda *_args, **_kwargs: None
        raise AttributeError(name)


class FidelityTable(MultirunTable):
    """The same for `fidelity.py`: its jobs end in one table per truth."""

    def on_multirun_end(self, config: "DictConfig", **_: object) -> None:
        """Show the jobs of this sweep from their notes on disk."""
        from cotpress.fidelity_task import show_jobs

        show_jobs(Path(config.hydra.sweep.dir), JOB_FILE)
