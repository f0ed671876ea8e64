"""Whole commands on the tiny model, run as a user runs them."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FEW_PROBLEMS = ["benchmark.num_problems=6", "benchmark.max_new_tokens=24"]
SMALL = [
    "model=tiny", "data.num_traces=24", *FEW_PROBLEMS, "sft.validation_max_new_tokens=24", "evaluation=students",
]  # fmt: skip


def environment() -> dict[str, str]:
    """Environment variables without network access and accounts."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "120"}


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Condition and signal that stop a command.

    Attributes:
        pattern: Regular expression that must be in its log.
        of_any: Look for the pattern in the logs of all that were started together.
        exists: Pattern of a file that must exist below the working directory; empty for none.
        after_s: Seconds between the condition and the signal.
    """

    pattern: str
    of_any: bool = False
    exists: str = ""
    after_s: float = 0.0
    signal: int = signal.SIGKILL


class Command:
    """Runs entry scripts, or modules as `-m NAME`, in a folder of their own.

    They run in forks of one process per test worker (`command_server`).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        script: str,
        *arguments: str,
        cwd: Path | None = None,
        timeout: int = 240,
        stop: Stop | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end or until it is stopped, with further environment variables."""
        (done,) = self.together(1, script, *arguments, cwd=cwd, timeout=timeout, stop=stop, variables=variables)
        return done

    def together(
        self,
        copies: int,
        script: str,
        *arguments: str,
        cwd: Path | None = None,
        timeout: int = 240,
        stop: Stop | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> "list[subprocess.CompletedProcess[str]]":
        """Start the same command several times at once; the first of them may be stopped."""
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            written = [(str(Path(folder, f"out{i}")), str(Path(folder, f"err{i}"))) for i in range(copies)]
            request = {
                "script": script if script.startswith("-m ") else str(ROOT / script),
                "arguments": arguments,
                "cwd": str(cwd or self.folder),
                "environment": dict(variables or {}),
                "written": written,
                "timeout": timeout,
                "stop": None if stop is None else asdict(stop),
            }
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            codes = json.loads(server.stdout.readline())
            texts = [[Path(path).read_text(encoding="utf-8") for path in pair] for pair in written]
        if None in codes:
            raise subprocess.TimeoutExpired([script, *arguments], timeout, *texts[codes.index(None)])
        return [
            subprocess.CompletedProcess([script, *arguments], code, *pair)
            for code, pair in zip(codes, texts, strict=True)
        ]

    def module(self, name: str, *arguments: str, timeout: int = 300) -> "subprocess.CompletedProcess[str]":
        """Run `python -m NAME` in a new process."""
        return subprocess.run(
            [sys.executable, "-m", name, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.folder,
            env=environment(),
        )

    def fresh(self, script: str, *arguments: str, timeout: int = 240) -> "subprocess.CompletedProcess[str]":
        """Run a command in a new process that imports everything itself, as a shell starts it."""
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
