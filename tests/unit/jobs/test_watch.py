import io
import time
from pathlib import Path

import pytest

from cotpress.jobs.watch import Watch
from cotpress.progress import duration
from cotpress.store.sweeps import JobNote, JobState, read_sweep, write_note, write_plan

JOBS = [[f"ratio=0.{i}"] for i in range(1, 7)]


def _note(folder: Path, number: int, state: JobState, skew_s: float = 0.0, **more: object) -> None:
    started = time.time() + skew_s
    note = JobNote(overrides=tuple(JOBS[number]), state=state, started_at=started, **more)  # type: ignore[arg-type]
    write_note(folder / str(number), note)


def test_every_finished_job_has_one_line_with_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, "train", JOBS)
    watch = Watch(tmp_path)
    watch.start()
    _note(tmp_path, 0, JobState.finished, seconds=60.0, metric=0.25)
    _note(tmp_path, 1, JobState.found, seconds=0.0, metric=0.5)
    _note(tmp_path, 2, JobState.failed, seconds=3.0, error="no\nmemory")
    _note(tmp_path, 3, JobState.interrupted, seconds=3.0)
    _note(tmp_path, 4, JobState.running)
    watch.stop()
    lines = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines[0].startswith("sweep: 6 jobs")
    assert lines[1:] == [
        "job 1 of 6 (ratio=0.1): 0.250, 1 min 00 s",
        "job 2 of 6 (ratio=0.2): 0.500, found finished",
        f"job 3 of 6 (ratio=0.3): failed after 3 s: no memory; log: {tmp_path / '2' / 'job.log'}",
        "job 4 of 6 (ratio=0.4): interrupted after 3 s",
    ]


def test_time_left_is_estimated_from_the_computed_jobs(tmp_path: Path) -> None:
    write_plan(tmp_path, "train", JOBS)
    watch = Watch(tmp_path)
    assert watch.left(read_sweep(tmp_path)) == ""
    _note(tmp_path, 0, JobState.finished, seconds=100.0)
    _note(tmp_path, 1, JobState.found, seconds=0.0)  # took no time, so it is left out of the estimate
    _note(tmp_path, 2, JobState.running)
    _note(tmp_path, 3, JobState.running)
    watch.look()
    assert watch.left(read_sweep(tmp_path)) == "; about 3 min 20 s left"  # 2 running, 2 waiting, 2 at a time


@pytest.mark.parametrize("skew_s", [-600.0, 0.0, 600.0])
def test_estimate_does_not_depend_on_the_clocks_of_the_machines_that_jobs_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    write_plan(tmp_path, "train", JOBS)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(tmp_path)
    _note(tmp_path, 0, JobState.finished, seconds=100.0)
    _note(tmp_path, 1, JobState.running, skew_s)
    for passed, left in ((0.0, 500.0), (30.0, 470.0), (200.0, 400.0)):  # 4 wait, and one runs
        now[0] = 1000.0 + passed
        watch.look()
        assert watch.left(read_sweep(tmp_path)) == f"; about {duration(left)} left"


def test_running_jobs_are_shown_with_the_last_line_of_their_log(tmp_path: Path) -> None:
    from rich.console import Console

    write_plan(tmp_path, "train", JOBS)
    _note(tmp_path, 0, JobState.running)
    (tmp_path / "0" / "job.log").write_text("12:00:00 data: found\n12:00:01 sft: 3/7 steps [x]\n\n")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(Watch(tmp_path).shown())
    shown = console.export_text()
    assert "0/6 jobs" in shown
    assert "job 1 of 6 (ratio=0.1): sft: 3/7 steps [x]" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("", "starting"),
        ("22:47:03 sft: computing\n22:47:04 sft: 3 rows\n", "sft: 3 rows"),
        (
            "22:47:04 sft: 3 rows\n22:47:05 lib.py:379: UserWarning: old\n  call_me()\n\n",
            "lib.py:379: UserWarning: old",
        ),
        ("2026-11-21 no time of ours\n", "starting"),
    ],
)
def test_last_line_with_a_time_is_shown_for_a_running_job(
    tmp_path: Path, log: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cotpress.jobs.watch.QUIET_S", 0.0)
    write_plan(tmp_path, "train", JOBS)
    _note(tmp_path, 0, JobState.running)
    (tmp_path / "0" / "job.log").write_text(log)
    watch = Watch(tmp_path)
    watch.look()
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"job 1 of 6 (ratio=0.1) is running: {shown}")


def test_a_warning_that_jobs_share_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, "train", JOBS)
    watch = Watch(tmp_path)
    lost = "2026-11-30 12:00:00,123 WARNING cotpress.data.losses: benchmark=b: 7 of 8 rows are used\n"
    for number in range(2):
        _note(tmp_path, number, JobState.finished, seconds=1.0, metric=0.5)
        own = f"2026-11-30 12:00:01,000 WARNING cotpress.x: of job {number}\n"
        other = "2026-11-30 12:00:01,000 WARNING py.warnings: not ours\n2026-11-30 12:00:01,000 INFO cotpress.x: fine\n"
        (tmp_path / str(number) / "job.log").write_text(lost + own + other)
    watch.look()
    lines = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if not line.startswith("job ")] == [
        "  warning: benchmark=b: 7 of 8 rows are used", "  warning: of job 0", "  warning: of job 1",
    ]  # fmt: skip
