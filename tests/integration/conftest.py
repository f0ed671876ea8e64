"""Whole commands on the tiny model, run as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["model=tiny", "data.num_traces=24", "benchmark.num_problems=6", "benchmark.max_new_tokens=24"]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def environment() -> dict[str, str]:
    """No network, no account, whatever the machine offers."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "COLUMNS": "120"}


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs an entry script in an empty folder; `output_root` is relative to it unless given."""
    folder = tmp_path_factory.mktemp("user")

    def run(script: str, *arguments: str, cwd: Path | None = None, timeout: int = 240):  # noqa: ANN202
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd or folder,
            env=environment(),
        )

    run.folder = folder  # type: ignore[attr-defined]
    return run
