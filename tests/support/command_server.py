"""A process that imports everything once and runs every command of the tests in a fork of itself.

A command is as much a process of its own as one from a shell, without the seconds that the imports take. Reads one JSON
request per line and answers with a list of exit codes per line; `null` is a command that did not end in time.

    script, arguments, cwd    what to run and where; a module is `-m NAME`
    environment               further environment variables
    written                   a pair of files for each process to start: its standard output and standard error
    timeout                   seconds
    stop                      null, or how the first of them is stopped: see `commands.Stop`
"""

import gc
import importlib
import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from speed import collect_less  # beside this program

IMPORTED = (
    "hydra", "cotpress.cli.app", "cotpress.tasks.train", "cotpress.config", "cotpress.tasks.fidelity", "peft",
    "scipy.stats",
    "sklearn", "math_verify", "matplotlib.figure", "transformers.models.llama",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
)  # fmt: skip


def main() -> None:
    """Serve until standard input ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    collect_less()
    _prepare()
    gc.freeze()  # a collection in a fork would read, and so copy, all that is imported
    for line in sys.stdin:
        request = json.loads(line)
        children = [_forked(request, *written) for written in request["written"]]
        if request["stop"] is not None:
            _stop(children[0], request, **request["stop"])
        print(json.dumps([_ended(child, request["timeout"]) for child in children]), flush=True)


def _prepare() -> None:
    """Do once what each command would do with the same result: register the schemas, hash the source of all modules."""
    from cotpress.config import register_schemas
    from cotpress.store import source

    register_schemas()
    for name in source._sources.package:
        source._sources._module(name)


def _forked(request: dict[str, Any], out: str, err: str) -> int:
    child = os.fork()
    if child == 0:
        _run(request, out, err)
    return child


def _stop(
    child: int, request: dict[str, Any], pattern: str, of_any: bool, exists: str, after_s: float, signal: int
) -> None:
    until, folder = time.monotonic() + request["timeout"], Path(request["cwd"])
    logs = [Path(log) for _, log in request["written"][: None if of_any else 1]]

    def due() -> bool:
        said = any(re.search(pattern, log.read_text()) for log in logs if log.exists())
        return said and (not exists or any(folder.glob(exists)))

    while not due():
        if time.monotonic() > until or os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)
    time.sleep(after_s)
    os.kill(child, signal)


def _ended(child: int, timeout: float) -> int | None:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _fork_jobs() -> None:
    """Fork the jobs of a sweep from their command, which has imported everything and computed nothing.

    A command from a shell starts a fork server of its own for them, which imports everything once more.
    """
    usual = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: usual("fork" if method == "forkserver" else method)


def _run(request: dict[str, Any], out: str, err: str) -> None:
    code = 1
    try:
        _fork_jobs()
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to it
        os.chdir(request["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(request["environment"])
        sys.argv = [request["script"], *request["arguments"]]
        if request["script"].startswith("-m "):
            runpy.run_module(request["script"].removeprefix("-m "), run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(request["script"], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
