"""Hydra's submitit launchers: processes of this machine, and a SLURM cluster of stand-in programs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import ROOT, SMALL, Command, environment
from support.fake_slurm import install, options
from support.waiting import wait_until

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
pytestmark = pytest.mark.timeout(300)
SCRIPT = Path(__file__).parents[1] / "support" / "sweep_script.py"
LOCAL, SLURM = "hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm"


def _start(cwd: Path, *arguments: str, script: Path = SCRIPT, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(script), "-m", *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{SCRIPT.parent}", **variables},
    )  # fmt: skip


def _notes(cwd: Path) -> dict[str, str]:
    """States of the jobs by their overrides."""
    notes = [json.loads(p.read_text()) for p in cwd.glob("outputs/multirun/*/*/*/job.json")]
    return {" ".join(n["overrides"]): n["state"] for n in notes}


@pytest.mark.slow
def test_local_jobs_share_work_and_a_failing_one_stops_no_other(tmp_path: Path) -> None:
    job = _start(tmp_path, LOCAL, "scorer=cts,head", "ratio=0.5")
    out, err = job.communicate(timeout=120)
    assert job.returncode == 1, err
    assert "sweep: 1 jobs finished, 1 failed" in out
    assert err.count("RuntimeError: no head today; log: ") == 1
    assert (tmp_path / "outputs" / "computed").read_text() == "x"


@pytest.mark.slow
def test_slurm_jobs_are_one_array_with_the_given_options(tmp_path: Path) -> None:
    variables = install(tmp_path / "slurm")
    settings = ["partition=a100", "gpus_per_node=4", "cpus_per_task=8", "mem_gb=64", "array_parallelism=16"]
    job = _start(
        tmp_path, SLURM, "scorer=cts", "ratio=0.5,0.7", *(f"hydra.launcher.{s}" for s in settings), **variables
    )
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0, err
    assert "sweep: 2 jobs finished, 0 failed" in out
    script = (tmp_path / "slurm/queue/script.sh").read_text()
    expected = {
        "array": "0-1%2", "nodes": "1", "ntasks-per-node": "1", "gpus-per-node": "4", "cpus-per-task": "8",
        "mem": "64GB", "partition": "a100", "time": "1440", "job-name": "cotpress-train", "open-mode": "append",
    }  # fmt: skip
    written = options(script)
    assert {key: written.get(key) for key in expected} == expected
    assert written["signal"].startswith("USR2@")
    assert "srun --unbuffered --output " in script
    assert f"{sys.executable} -u -m submitit.core._submit " in script


@pytest.mark.slow
@pytest.mark.parametrize(
    ("programs", "message"),
    [
        (
            {"srun": "", "sbatch": "echo 'sbatch: error: invalid partition specified: a100' >&2; exit 1"},
            "sbatch refuses the jobs of this multirun: sbatch: error: invalid partition specified: a100. Nothing was "
            "submitted. Fix: the settings hydra.launcher.KEY=VALUE that it names, such as partition, account or qos",
        ),
        (
            {"srun": "", "sbatch": "echo 'the queue is closed'; exit 3"},
            "sbatch refuses the jobs of this multirun: the queue is closed. Nothing was submitted. Fix: the settings",
        ),
        (
            {"srun": "", "sbatch": "echo 'the job has no number'"},
            'sbatch refuses the jobs of this multirun: Could not make sense of sbatch output "the job has no number"',
        ),
        ({"srun": ""}, "hydra/launcher=submitit_slurm: the program 'sbatch' is not found. Fix: start it on a machine"),
        ({}, "hydra/launcher=submitit_slurm: the program 'srun' is not found. Fix: start it on a machine"),
    ],
)
def test_cluster_that_takes_no_jobs_is_one_message(tmp_path: Path, programs: dict[str, str], message: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    job = _start(tmp_path, SLURM, "scorer=cts", "ratio=0.5,0.7", PATH=str(folder))
    _, err = job.communicate(timeout=120)
    assert job.returncode == 1
    assert f"error: {message}" in err
    assert err.count("\n\nerror: ") + err.startswith("\nerror: ") == 1
    assert err.count("invalid partition") <= 1
    assert "Traceback" not in err
    assert not list(tmp_path.glob("outputs/multirun/*/*/sweep.json"))


@pytest.mark.slow
def test_killed_slurm_job_stops_no_other(tmp_path: Path) -> None:
    job = _start(tmp_path, SLURM, "scorer=cts,tail", "ratio=0.5", **install(tmp_path / "slurm"))
    wait_until((tmp_path / "outputs" / "began-tail").exists, 90, "the work of a job", job=job)
    for pid in _tasks(tmp_path, "scorer=tail"):
        os.kill(pid, signal.SIGKILL)
    out, err = job.communicate(timeout=120)
    assert job.returncode == 1, err
    assert "sweep: 1 jobs finished, 1 failed" in out
    assert "the job ended without a result (state OUT_OF_MEMORY); what it wrote: " in err


@pytest.mark.slow
def test_ctrl_c_cancels_the_jobs(tmp_path: Path) -> None:
    job = _start(tmp_path, SLURM, "scorer=tail", "ratio=0.5,0.7", **install(tmp_path / "slurm"))
    wait_until((tmp_path / "outputs" / "began-tail").exists, 90, "the work of a job", job=job)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=60)
    (tmp_path / "go_on").touch()
    assert job.returncode == 130, err
    assert "2 interrupted" in out
    assert (tmp_path / "slurm/queue/cancelled").read_text().split() == ["4242_0", "4242_1"]


def _tasks(cwd: Path, override: str) -> list[int]:
    """Process ids of a running job, by the number of its folder."""
    notes = {p: json.loads(p.read_text()) for p in cwd.glob("outputs/multirun/*/*/*/job.json")}
    (number,) = [p.parent.name for p, n in notes.items() if override in n["overrides"]]
    pids = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(v.split("=", 1) for v in (place / "environ").read_text().split("\0") if "=" in v)
            program = (place / "cmdline").read_text()
            own = str(cwd) in program and "submitit.core._submit" in program and "srun" not in program
        except OSError:
            continue
        if own and variables.get("SLURM_ARRAY_TASK_ID") == number:
            pids.append(int(place.name))
    return pids


@pytest.mark.slow
def test_several_tasks_per_node_are_refused_with_the_settings_to_use(tmp_path: Path) -> None:
    job = _start(tmp_path, LOCAL, "scorer=cts", "ratio=0.5", "hydra.launcher.tasks_per_node=2")
    _, err = job.communicate(timeout=120)
    assert job.returncode == 1
    assert "Fix: hydra.launcher.tasks_per_node=1 hydra.launcher.gpus_per_node=2 trainer.devices=2" in " ".join(
        err.split()
    )


def _long_traces(folder: Path) -> list[str]:
    """Settings of a data file whose traces fill three chunks."""
    thinking = "wait so 3 + 4 = 7 . " * 2500
    rows = [
        {"id": f"r{i}", "question": "3 + 4 ?", "thinking": f"{i} {thinking}", "response": "7", "answer": "7"}
        for i in range(9)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["model=tiny", "reference=none", "data=jsonl", f"data.path={path}", "ratio=0.5", "tracker=none"]


@pytest.mark.slow
def test_shards_compress_as_one_command_does(command: Command) -> None:
    data = [*_long_traces(command.folder), "scorer=random", "data.validation_fraction=0"]
    outputs = []
    for more in (["output=whole"], *(["output=shards", "output_root=two", f"shard={k}/2"] for k in (2, 1))):
        ended = command("compress.py", *data, *more)
        assert ended.returncode == 0, ended.stderr
        outputs.append(ended.stdout)
    assert outputs[1] == "shard 2/2 is compressed; the command that compresses the last shard exports\n"
    for name in ("compressed.parquet", "manifest.json"):
        assert (command.folder / "whole" / name).read_bytes() == (command.folder / "shards" / name).read_bytes()


def test_shard_that_does_not_exist_is_refused_before_any_work(command: Command) -> None:
    ended = command("compress.py", "model=tiny", "shard=3/2")
    assert ended.returncode == 2
    assert "shard: got '3/2', allowed: K/N" in ended.stderr


@pytest.mark.slow
def test_train_under_submitit_local_ends_with_the_table(tmp_path: Path) -> None:
    small = [*SMALL, "reference=none", "tracker=none", "sft.tune.epochs=1"]
    job = _start(tmp_path, LOCAL, *small, "scorer=cts,random", "ratio=0.5,0.7", script=ROOT / "train.py")
    out, err = job.communicate(timeout=280)
    assert job.returncode == 0, err
    assert "sweep: 4 jobs finished, 0 failed" in out
    assert out.count("\nrandom ") == 2
