"""Jobs that wait in the queue of SLURM for something else than their turn are named with its reason."""

import time
from pathlib import Path

import pytest

from cotpress.jobs import queue
from cotpress.jobs.queue import waiting, watched_queue


@pytest.mark.parametrize(
    ("reasons", "line"),
    [
        ([], ""),
        (["", "Resources", "Priority", "None", "JobArrayTaskLimit", "QOSMaxJobsPerUserLimit"], ""),
        (
            ["PartitionTimeLimit", "Resources", "PartitionTimeLimit"],
            "2 jobs wait in the queue of SLURM: PartitionTimeLimit. Fix: Ctrl-C, then the command with another "
            "hydra.launcher.timeout_min",
        ),
        (
            ["QOSMaxWallDurationPerJobLimit"],
            "1 job waits in the queue of SLURM: QOSMaxWallDurationPerJobLimit. Fix: Ctrl-C, then the command with "
            "another hydra.launcher.timeout_min",
        ),
        (["JobHeldAdmin"], "1 job waits in the queue of SLURM: JobHeldAdmin"),
        (
            ["ReqNodeNotAvail, UnavailableNodes:n1"],
            "1 job waits in the queue of SLURM: ReqNodeNotAvail. Fix: Ctrl-C, then the command with another "
            "hydra.launcher.constraint",
        ),
    ],
)
def test_only_reasons_that_do_not_pass_by_themselves_are_named(reasons: list[str], line: str) -> None:
    assert waiting(reasons) == line


def test_reasons_are_shown_once_while_the_jobs_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, asked = tmp_path / "squeue", tmp_path / "asked"
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\necho PartitionTimeLimit\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(queue, "FIRST_S", 0.01)
    monkeypatch.setattr(queue, "POLL_S", 0.05)
    lines: list[str] = []
    monkeypatch.setattr(queue, "say", lines.append)
    with watched_queue(["7_0", "7_1"]):
        deadline = time.monotonic() + 30
        while not asked.exists() or asked.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert [line.partition(":")[0] for line in lines] == ["1 job waits in the queue of SLURM"]
    assert "--jobs=7\n" in asked.read_text()
