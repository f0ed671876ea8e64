"""Runs that are killed and repeated lose no finished work and read no partial output (more: tests/tool/kills.py)."""

import signal
from pathlib import Path

import pytest

from support.commands import Command, Stop
from support.undisturbed import contents

pytestmark = pytest.mark.timeout(300)
SMALL = [
    "model=tiny", "scorer=cts", "ratio=0.5", "data.num_traces=16", "benchmark.num_problems=2",
    "benchmark.max_new_tokens=8", "evaluation.baselines=[]", "trainer.checkpoint_every_s=0",
    "reference.tune.sequences_per_step=2", "sft.tune.sequences_per_step=2",
]  # fmt: skip
CHECKPOINT = "outputs/artifacts/.partial/{}-*/scratch/checkpoint-*"
STOPS = (
    (Stop(pattern="reference: computing", exists=CHECKPOINT.format("reference"), signal=signal.SIGINT), 130),
    (Stop(pattern="score: computing", after_s=0.05), -signal.SIGKILL),
    (Stop(pattern="sft: computing", exists=CHECKPOINT.format("sft")), -signal.SIGKILL),
    (Stop(pattern="sft: going on from", after_s=0.05, signal=signal.SIGTERM), 143),
)
"""Interruptions, each with the exit code that follows."""


def test_run_that_is_stopped_repeatedly_resumes_with_the_same_result(command: Command, tmp_path: Path) -> None:
    disturbed, whole = tmp_path / "disturbed", tmp_path / "whole"
    disturbed.mkdir()
    whole.mkdir()
    for stop, code in STOPS:
        stopped = command("train.py", *SMALL, cwd=disturbed, stop=stop)
        assert stopped.returncode == code, stopped.stderr[-3000:]
        assert "Traceback" not in stopped.stderr
        assert ("the same command continues" in stopped.stderr) == (stop.signal != signal.SIGKILL)
    done = command("train.py", *SMALL, cwd=disturbed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sft: going on from the last checkpoint" in done.stderr
    assert "score: computing" not in done.stderr
    assert command("train.py", *SMALL, cwd=whole).returncode == 0
    assert contents(disturbed / "outputs") == contents(whole / "outputs")


def test_jobs_that_start_together_share_the_work_and_survive_the_death_of_one(command: Command, tmp_path: Path) -> None:
    arguments = ["model=tiny", "scorer=cts", "reference=none", "ratio=0.5", "data.num_traces=120"]
    # A stage that another job finishes quickly logs nothing, so any stage will do.
    stop = Stop(pattern=r": (computing|another|found)")
    done = command.together(3, "compress.py", *arguments, cwd=tmp_path, stop=stop)
    assert [job.returncode for job in done] == [-signal.SIGKILL, 0, 0], [job.stderr[-2000:] for job in done]
    for stage in ("score", "compress"):
        assert sum(f"{stage}: computing" in job.stderr for job in done) == 1, stage
