"""Multiruns of a stand-in for the flow, without torch (sweep_script.py): killed, failed, interrupted, repeated."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import ROOT, Command, environment
from support.waiting import wait_until, wait_until_gone

pytestmark = pytest.mark.timeout(300)
SCRIPT = Path(__file__).parents[1] / "support" / "sweep_script.py"
PARALLEL = "hydra/launcher=joblib"


def _start(cwd: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{SCRIPT.parent}"}, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _run(cwd: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    job = _start(cwd, *arguments)
    out, err = job.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, job.returncode, out, err)


def _working(job: "subprocess.Popen[str]", cwd: Path, override: str, number: int = 1) -> list[int]:
    """Wait until `number` jobs with this override run, and one of them works; return their process ids."""

    def working() -> list[int]:
        notes = [json.loads(p.read_text()) for p in cwd.glob("outputs/multirun/*/*/*/job.json")]
        pids = [n["pid"] for n in notes if n["state"] == "running" and n["pid"] and override in n["overrides"]]
        return pids if len(pids) >= number and (cwd / "outputs" / "began-tail").exists() else []

    return wait_until(working, 90, f"{number} jobs with {override}", job=job)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "setting"),
    [(["-m", "scorer=tail", "ratio=0.5"], "hydra.sweep.dir"), (["scorer=tail", "ratio=0.5"], "hydra.run.dir")],
)
def test_commands_that_start_together_for_one_folder_get_a_folder_each(
    tmp_path: Path, arguments: list[str], setting: str
) -> None:
    jobs = [_start(tmp_path, *arguments, f"{setting}=logs/one", f"output_root=out{k}") for k in (1, 2)]
    for k, job in enumerate(jobs, start=1):
        wait_until((tmp_path / f"out{k}" / "began-tail").exists, 90, f"the work of command {k}", job=job)
    (tmp_path / "go_on").touch()
    ended = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], ended
    folders = sorted(tmp_path.glob("logs/*"))
    assert [folder.name for folder in folders] == ["one", "one-2"]
    notes = [json.loads(path.read_text()) for folder in folders for path in sorted(folder.rglob("job.json"))]
    assert sorted(note["run_dir"].partition("/out")[2][0] for note in notes) == ["1", "2"]
    assert all(note["state"] == "finished" for note in notes)


@pytest.mark.slow
def test_parallel_jobs_share_work_and_a_killed_or_failing_one_stops_no_other(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ["-m", PARALLEL, "scorer=tail,head,cts", "ratio=0.5,0.7"]
    job = _start(tmp_path, *arguments)
    os.kill(_working(job, tmp_path, "scorer=tail", 2)[0], signal.SIGKILL)
    (tmp_path / "go_on").touch()
    out, err = job.communicate(timeout=120)
    assert job.returncode == 1, err
    assert "sweep: 3 jobs finished, 3 failed" in out
    assert err.count("killed by SIGKILL") == 1
    assert err.count("RuntimeError: no head today; log: ") == 2
    assert (tmp_path / "outputs" / "computed").read_text() == "x"
    logs = [p.read_text() for p in tmp_path.glob("outputs/multirun/*/*/*/job.log")]
    assert sum("Traceback" in text and "no head today" in text for text in logs) == 2
    again = _run(tmp_path, *arguments)
    assert again.stderr.count("found finished") == 3
    assert "sweep: 4 jobs finished, 2 failed" in again.stdout


@pytest.mark.parametrize(
    "launcher",
    [pytest.param([], id="one by one"), pytest.param([PARALLEL], id="parallel", marks=pytest.mark.slow)],
)
def test_ctrl_c_shows_the_table_and_the_missing_jobs(command: Command, tmp_path: Path, launcher: list[str]) -> None:
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ["-m", *launcher, "scorer=cts,tail,random", "ratio=0.5"]
    job = _start(tmp_path, *arguments)
    (pid,) = _working(job, tmp_path, "scorer=tail")[:1]
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does
    out, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "the same command continues" in err
    assert "Traceback" not in err
    assert "\ncts " in out or launcher
    assert "scorer=tail: interrupted" in out
    wait_until_gone([pid], 90)
    (tmp_path / "go_on").touch()
    again = command(str(SCRIPT), *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "sweep: 3 jobs finished, 0 failed" in again.stdout
    assert (tmp_path / "outputs" / "computed").read_text() == "x"


@pytest.mark.slow
def test_killed_worker_of_the_launcher_loses_no_job(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    job = _start(tmp_path, "-m", PARALLEL, "scorer=tail,cts", "ratio=0.5,0.7")
    child = _working(job, tmp_path, "scorer=tail", 2)[0]
    server = _parent(child)
    os.kill(_parent(server), signal.SIGKILL)
    (tmp_path / "go_on").touch()
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert "a worker of the parallel launcher was killed" in err
    assert "sweep: 4 jobs finished, 0 failed" in out


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
