"""Whole commands on the tiny model, run as a user runs them."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FEW_PROBLEMS = ["benchmark.num_problems=6", "benchmark.max_new_tokens=24"]
SMALL = ["model=tiny", "data.num_traces=24", *FEW_PROBLEMS, "evaluation=students"]


def environment() -> dict[str, str]:
    """No network, no account, whatever the machine offers."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "120"}


class Command:
    """Runs entry scripts in a folder of their own, in forks of one process per test worker (`command_server`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        script: str,
        *arguments: str,
        cwd: Path | None = None,
        timeout: int = 240,
        variables: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end, with further environment variables."""
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        with tempfile.TemporaryDirectory() as written:
            out, err = Path(written, "out"), Path(written, "err")
            request = {
                "script": str(ROOT / script),
                "arguments": arguments,
                "cwd": str(cwd or self.folder),
                "environment": dict(variables or {}),
                "out": str(out),
                "err": str(err),
                "timeout": timeout,
            }
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            code = json.loads(server.stdout.readline())
            texts = [path.read_text(encoding="utf-8") for path in (out, err)]
        if code is None:
            raise subprocess.TimeoutExpired([script, *arguments], timeout, *texts)
        return subprocess.CompletedProcess([script, *arguments], code, *texts)

    def fresh(self, script: str, *arguments: str, timeout: int = 240) -> "subprocess.CompletedProcess[str]":
        """The same in a process that imports everything itself, as a shell starts it."""
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.folder,
            env=environment(),
        )


@cache
def _server() -> "subprocess.Popen[str]":
    path = Path(__file__).with_name("command_server.py")
    server = subprocess.Popen(
        [sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    atexit.register(server.kill)
    return server
