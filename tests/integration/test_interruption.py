"""Killed and repeated: nothing that was finished is lost, nothing half-made is read."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import ROOT, SMALL, Command, environment

pytestmark = pytest.mark.timeout(300)
ARGUMENTS = ["scorer=cts", "ratio=0.5", *SMALL, "trainer.checkpoint_every_s=0"]


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*.parquet") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _hear_ctrl_c() -> None:
    """A shell starts background jobs deaf to SIGINT, and their children inherit that; a user's job hears it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _start(cwd: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *ARGUMENTS, *more], cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hear_ctrl_c,
    )  # fmt: skip


def _wait_for(pattern: str, cwd: Path, job: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not list(cwd.glob(pattern)) and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def test_killed_run_goes_on_and_ends_the_same(command: Command, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    for pattern in ("outputs/artifacts/.partial/sft-*/scratch/last.ckpt", "outputs/artifacts/score/*"):
        job = _start(killed)
        _wait_for(pattern, killed, job)
        job.send_signal(signal.SIGKILL)
        job.communicate()
    done = command("train.py", *ARGUMENTS, cwd=killed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "data: computing" not in done.stderr
    assert command("train.py", *ARGUMENTS, cwd=whole).returncode == 0
    for stage in ("data", "distill", "score", "compress"):
        assert _digests(killed / "outputs/artifacts" / stage) == _digests(whole / "outputs/artifacts" / stage), stage
    logs = [sorted(p.read_text() for p in f.glob("outputs/artifacts/sft/*/train_log.csv")) for f in (killed, whole)]
    assert logs[0] == logs[1]


def test_ctrl_c_says_what_happens_next(command: Command, tmp_path: Path) -> None:
    job = _start(tmp_path, "data.num_traces=200")
    _wait_for("outputs/artifacts/.partial/sft-*/scratch/last.ckpt", tmp_path, job)
    job.send_signal(signal.SIGINT)
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 130, stderr[-2000:]
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
