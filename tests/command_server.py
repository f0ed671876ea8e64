"""Runs entry scripts in forks of one process that has imported everything already and computed nothing.

A command is as much a process of its own as one from a shell, without the seconds that the imports take. Reads one JSON
request per line (`script`, `arguments`, `cwd`, `environment`, `out`, `err`, `timeout`) and answers with one exit code
per line; `null` is a command that did not end in time.
"""

import importlib
import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
import traceback
from typing import Any

IMPORTED = (
    "hydra", "cotpress.app", "cotpress.config", "cotpress.experiment", "cotpress.fidelity_task", "peft", "scipy.stats",
    "sklearn", "math_verify", "matplotlib.figure", "torchdata.stateful_dataloader", "transformers.models.llama",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
)  # fmt: skip


def main() -> None:
    """Serve until standard input ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        print(json.dumps(_ended(child, request["timeout"])), flush=True)


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
    """Let the jobs of a sweep be forks of their command, which has imported everything and computed nothing as well.

    A command from a shell starts a fork server of its own for them, which imports everything once more.
    """
    usual = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: usual("fork" if method == "forkserver" else method)


def _run(request: dict[str, Any]) -> None:
    code = 1
    try:
        _fork_jobs()
        os.setpgid(0, 0)
        os.chdir(request["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, request["out"]), (2, request["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(request["environment"])
        sys.argv = [request["script"], *request["arguments"]]
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
