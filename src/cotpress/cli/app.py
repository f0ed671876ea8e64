"""The main function of the commands with a configuration: Hydra, messages, exit codes.

Hydra composes the configuration, and the task gets plain objects. Errors that a user can act on are printed as one
message without a stack trace; the traceback goes to the log file of the job.
"""

import _thread
import contextlib
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cotpress.cli.completion import SWITCHES, candidates, shell_completion
from cotpress.cli.help import help_page
from cotpress.devices.memory import MEMORY_FIX, is_out_of_memory
from cotpress.devices.processes import terminate
from cotpress.errors import ConfigError, CotpressError, Terminated
from cotpress.invocation import Form, as_typed, remember
from cotpress.plugins import check_names, load_plugins, plugin_names, without_plus
from cotpress.store.paths import FIX, FIX_FILES, NO_FILES, disk_problem
from cotpress.store.redaction import check_readable, refuse_secret_arguments, shown, without_secrets
from cotpress.tasks import Task
from cotpress.terminal import UNREAD, escaped, guard_output

if TYPE_CHECKING:
    from omegaconf import DictConfig

_SOON_S = 0.05
"""Seconds until a lost interrupt is raised again."""


def main(task: Task, conf: Path, form: Form = Form.script) -> None:
    """Run a command, whose jobs do the work of `task`, and exit with its code.

    `conf` is the folder of the configuration groups. Messages name commands in a form.
    """
    remember(form)
    end_with_code(lambda: _script(task, conf), _end_sweep)


def end_with_code(command: Callable[[], None], at_interrupt: Callable[[], None] = lambda: None) -> None:
    """Run a command and end the process with its code.

    It is 130 after Ctrl-C, 143 after SIGTERM, and 141 if nobody reads its output any longer.
    """
    output = guard_output()
    signal.signal(signal.SIGTERM, terminate)
    try:
        with _interrupts_kept():
            command()
        output.flush()
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends the process at once
        at_interrupt()
        how, code = ("stopped by SIGTERM", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
        stop(f"{how}. Finished work is kept; the same command continues from there.", code)
    except Exception:
        sys.stderr.write(shown(traceback.format_exc()))
        sys.exit(1)
    if output.problem:
        stop(f"standard output cannot be written: {output.problem}", 1)
    if output.is_unread:
        sys.exit(UNREAD)


@contextlib.contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise a `KeyboardInterrupt` again that was lost: Python only prints exceptions of destructors (`__del__`)."""
    usual = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            usual(lost)
            return
        again = threading.Timer(_SOON_S, _thread.interrupt_main)  # here it would be lost once more
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual


def stop(message: str, code: int) -> NoReturn:
    """End the process with a message of one paragraph."""
    sys.stdout.flush()
    sys.stderr.write(f"\nerror: {shown(message)}\n")
    sys.exit(code)


def _end_sweep() -> None:
    """Show what an interrupted multirun has; nothing before the modules of jobs are loaded."""
    if "cotpress.jobs.multirun" in sys.modules:
        from cotpress.jobs import multirun

        multirun.end_sweep()


def _script(task: Task, conf: Path) -> None:
    name = task.name
    try:
        sys.argv[1:] = without_plus(sys.argv[1:])
        warnings = load_plugins(plugin_names([*sys.argv[1:], *os.environ.get("COMP_LINE", "").split()]))
        for warning in warnings + check_names(conf):
            sys.stderr.write(f"warning: {shown(warning)}\n")
        if (text := _help(name, conf, sys.argv[1:])) is not None:
            sys.stdout.write(text)
            return
        check_readable(sys.argv[1:])
        refuse_secret_arguments(sys.argv[1:])
    except ConfigError as error:
        stop(str(error), 2)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of being printed by Hydra
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # one message after the last attempt, in place of one for each
    import hydra

    from cotpress.cli.arguments import check_grammar, options_first, quoted, with_added, without_null
    from cotpress.cli.errors import (
        check_added,
        check_dashes,
        check_launcher_of_one,
        check_options,
        check_outputs,
        check_plan_of_one,
        check_runs_of_one,
        explain_all,
    )
    from cotpress.cli.experiments import with_experiments
    from cotpress.cli.models import with_models
    from cotpress.cli.runs import with_benchmark_of_runs
    from cotpress.config import register_schemas
    from cotpress.jobs import multirun

    register_schemas()
    multirun.register_launchers()
    failed: list[BaseException] = []

    @hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name=name)
    def job(config: "DictConfig") -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from cotpress.jobs.job import run_alone, run_in_sweep
        from cotpress.jobs.multirun import written

        run = HydraConfig.get()
        folder, overrides = Path(run.runtime.output_dir), written(run.overrides.task)
        if run.mode == RunMode.MULTIRUN:
            return run_in_sweep(config, task, folder, overrides, run.launcher)
        try:
            return run_alone(config, task, folder, overrides)
        except Exception as error:  # one that reaches Hydra makes it print a message of its own
            failed.append(error)
            return None

    try:
        check_dashes(sys.argv[1:], name, conf)
        sys.argv[1:] = options_first(with_added(sys.argv[1:], name, conf))
        check_options(sys.argv[1:], name)
        sys.argv[1:] = without_null(quoted(sys.argv[1:]), name, conf)
        check_grammar(sys.argv[1:], name, conf)
        check_added(sys.argv[1:], name, conf)
        check_plan_of_one(sys.argv[1:])
        check_runs_of_one(sys.argv[1:], name)
        check_outputs(sys.argv[1:])
        multirun.check_launcher(sys.argv[1:])
        check_launcher_of_one(sys.argv[1:], name)
        for note in with_models(sys.argv[1:], conf):
            sys.stderr.write(f"note: {shown(note)}\n")
        sys.argv[1:] = with_benchmark_of_runs(with_experiments(sys.argv[1:], name, conf), name)
        if re.search(r" (--cfg|-c)[ =]job\b", " ".join(sys.argv)):
            sys.argv.append("--resolve")  # values in place of references
        prints = {"--cfg", "-c", "--info", "-i"} & {argument.partition("=")[0] for argument in sys.argv[1:]}
        (_printed if prints else _run)(job)
        if failed:
            raise failed[0]
    except CotpressError as error:
        multirun.forget_sweep()
        stop(str(error), 2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        outside = _machine_problem(error)
        message = outside or explain_all(error, sys.argv[1:], name, conf)
        if message is not None:
            multirun.forget_sweep()
            stop(message, 1 if outside else 2)
        multirun.end_sweep()
        raise
    sweep = multirun.end_sweep()
    if sweep is not None and sweep.failed:
        stop(f"{sweep.failed} of the jobs failed; their logs hold the tracebacks. The others are kept.", 1)


def _help(name: str, conf: Path, arguments: list[str]) -> str | None:
    """Help or tab completion, which need no configuration; None if neither is requested."""
    position = next((i for i, a in enumerate(arguments) if a in ("--help", "-h")), None)
    if position is not None:
        return help_page(name, conf, [word for word in arguments[position + 1 :] if not word.startswith("plugins=")])
    if set(SWITCHES) & set(arguments):
        return shell_completion(as_typed(name), partial(candidates, name, conf), arguments, os.environ)
    return None


def _printed(job: Callable[[], None]) -> None:
    """Let Hydra print a configuration, which may be that of a stranger, without secrets and control characters."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            job()
    finally:
        sys.stdout.write(escaped(without_secrets(text.getvalue())))


def _run(job: Callable[[], None]) -> None:
    """Run a command; while it finishes further jobs, repeat it when a worker of the parallel launcher was killed."""
    from cotpress.jobs import multirun

    done = -1
    while True:
        try:
            return job()
        except BrokenExecutor as error:
            sweep = multirun.end_sweep(show=False)
            before, done = done, 0 if sweep is None else sweep.succeeded
            if sweep is None or done <= before:
                raise CotpressError(
                    "workers of the parallel launcher are killed again and again. Finished jobs are kept. "
                    "Fix: fewer jobs at a time (hydra.launcher.n_jobs=1), or more memory"
                ) from error
            sys.stderr.write("a worker of the parallel launcher was killed; continuing with the missing jobs\n")


def _machine_problem(error: BaseException) -> str | None:
    """The message for an error of disk or memory, else None."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use '{error.filename}': {error.strerror}. {FIX_FILES if error.errno in NO_FILES else FIX}"
    if (problem := disk_problem(error)) is not None:
        return f"cannot write: {problem}. {FIX}"
    return f"out of memory: {error}. {MEMORY_FIX}" if is_out_of_memory(error) else None
