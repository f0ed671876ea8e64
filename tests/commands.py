"""Whole commands on the tiny model, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = ["model=tiny", "data.num_traces=24", "benchmark.num_problems=6", "benchmark.max_new_tokens=24"]


def environment() -> dict[str, str]:
    """No network, no account, whatever the machine offers."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "120"}


class Command:
    """Runs entry scripts in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, script: str, *arguments: str, cwd: Path | None = None, timeout: int = 240
    ) -> "subprocess.CompletedProcess[str]":
        """Run one command to its end."""
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd or self.folder,
            env=environment(),
        )
