from pathlib import Path

import pytest

from cotpress.report.stage import report_sweep
from cotpress.store.sweeps import JobNote, JobState, read_sweep, write_note, write_plan


def test_jobs_without_a_table_show_their_output_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [["ratio=0.5", "shard=1/2"], ["ratio=0.5", "shard=2/2"], ["ratio=0.7"], ["ratio=7"]]
    states = [JobState.finished, JobState.finished, JobState.found, JobState.failed]
    write_plan(tmp_path, "compress", jobs)
    for number, (job, state) in enumerate(zip(jobs, states, strict=True)):
        output = tmp_path / "out" / job[0]
        write_note(tmp_path / str(number), JobNote(overrides=tuple(job), state=state, run_dir=output, started_at=0.0))
    report_sweep(read_sweep(tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        f"output: {tmp_path / 'out' / 'ratio=0.5'}",
        f"output: {tmp_path / 'out' / 'ratio=0.7'}",
        "sweep: 3 jobs finished, 1 failed",
    ]
