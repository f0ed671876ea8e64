"""A real SLURM cluster of two nodes: training by srun and submitit, scoring, preemption, faults (make test-slurm)."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cotpress.store.parts import plan_chunks
from support.commands import ROOT, environment
from support.slurm_cluster import obstacle, slurm_cluster
from support.training_jobs import losses
from support.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
SMALL = [
    "model=tiny", "scorer=random", "ratio=0.5", "data.num_traces=24", "benchmark.num_problems=2",
    "benchmark.max_new_tokens=8", "evaluation.baselines=[]", "sft.tune.sequences_per_step=4",
    "trainer.tokens_per_batch=300",  # several micro-batches per step, so that both nodes have one
]  # fmt: skip
ONE = ["trainer=cpu", "trainer.num_threads=1"]
NODES = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2", "trainer.num_threads=1"]
SRUN = ["srun", "-N", "2", "--ntasks-per-node=1", sys.executable]
LONG = ["sft.tune.epochs=400", "trainer.checkpoint_every_s=3600"]
SCRATCH = "outputs/artifacts/.partial/sft-*/scratch"


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    if (reason := obstacle()) is not None:
        pytest.skip(reason)
    with slurm_cluster() as variables:
        yield {**environment(), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", **variables}


@pytest.fixture
def run(slurm: dict[str, str], tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a command in the test's folder."""

    def done(*command: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        ended = subprocess.run(command, cwd=tmp_path, env=slurm, capture_output=True, text=True, timeout=300)
        assert ended.returncode == code, f"{ended.returncode}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
        return ended

    return done


def _student(output: Path) -> list[tuple[int, float, float, int]]:
    (folder,) = (output / "artifacts" / "sft").iterdir()
    return losses(folder)


@pytest.mark.parametrize(
    ("strategy", "method"), [("ddp", "lora"), ("ddp", "full"), ("fsdp2", "lora"), ("fsdp2", "full")]
)
def test_two_nodes_train_as_one_process_does(run, tmp_path, strategy, method):
    train = [str(ROOT / "train.py"), *SMALL, f"sft={method}", "until=sft"]
    one = run(sys.executable, *train, *ONE, "output_root=one")
    several = run(*SRUN, *train, f"trainer={strategy}", *NODES, "output_root=several")
    assert "student random 0.5: several/students/random-0.5" in several.stdout
    got, expected = _student(tmp_path / "several"), _student(tmp_path / "one")
    assert [(r[0], r[2], r[3]) for r in got] == [(r[0], r[2], r[3]) for r in expected]
    assert [r[1] for r in got] == pytest.approx([r[1] for r in expected], rel=1e-3)
    ((steps, tokens),) = re.findall(r"sft: (\d+) steps, (\d+) tokens in", several.stderr)
    assert int(tokens) > 300 * int(steps), "every step needs micro-batches for both nodes"
    (seconds,) = re.findall(r"first optimizer step (\d+) s after the command began", several.stderr)
    print(f"\n{strategy} {method}: {seconds} s from srun to the first optimizer step")
    assert int(seconds) < 60
    assert "Traceback" not in one.stderr + several.stderr


def test_multirun_by_submitit_uses_two_nodes_for_each_job(run, tmp_path):
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.timeout_min=10"]
    done = run(sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "ratio=0.5,0.7", *NODES, "trainer=ddp", *launcher)
    assert "sweep: 2 jobs finished, 0 failed" in done.stdout
    assert len(list((tmp_path / "outputs" / "runs").glob("*/results.json"))) == 2
    logs = "".join(path.read_text() for path in tmp_path.glob("outputs/multirun/*/*/*/job.log"))
    assert "on 2 machines" in logs
    assert "works for the first machine" in logs


def test_number_of_nodes_has_to_be_that_of_the_launcher(run):
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.timeout_min=10"]
    ended = run(sys.executable, str(ROOT / "train.py"), "-m", *SMALL, *ONE, *launcher, code=1)
    assert "hydra.launcher.nodes: got 2, but trainer.num_nodes=1" in ended.stderr + ended.stdout


def test_shards_on_two_nodes_each_give_the_bytes_of_one_process(run, tmp_path):
    arguments = ["model=tiny", "scorer=self_information", "ratio=0.5", "data.num_traces=7000"]
    compress = [str(ROOT / "compress.py"), *arguments]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.timeout_min=10"]
    run(sys.executable, *compress, "-m", "shard=1/2,2/2", *NODES, *launcher, "output=out", "output_root=several")
    run(sys.executable, *compress, *ONE, "output=alone", "output_root=one")
    data = tmp_path.glob("several/artifacts/data/*/traces.parquet")  # of the traces, and of those to distill
    assert max(len(plan_chunks(traces)) for traces in data) >= 4, "every node needs a chunk of every shard"
    for file in ("score/*/*.parquet", "compress/*/compressed.parquet"):
        (a,), (b,) = (list((tmp_path / root / "artifacts").glob(file)) for root in ("one", "several"))
        assert a.read_bytes() == b.read_bytes(), file


def _processes(folder: Path) -> dict[str, int]:
    """The commands of the nodes, by the node's number."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(v.split("=", 1) for v in (place / "environ").read_text().split("\0") if "=" in v)
            program, parent = (place / "cmdline").read_text().split("\0"), (place / "cwd").resolve()
        except OSError:
            continue
        if parent == folder and "SLURM_NODEID" in variables and program[1:2] == [str(ROOT / "train.py")]:
            found[variables["SLURM_NODEID"]] = int(place.name)
    return found


@pytest.mark.parametrize("killed", ["0", "1"])
def test_killed_node_ends_the_others_within_a_minute_and_the_command_goes_on(run, slurm, tmp_path, killed):
    train = [str(ROOT / "train.py"), *SMALL, "trainer=fsdp2", *NODES, "until=sft"]
    often = ["sft.tune.epochs=30", "trainer.checkpoint_every_s=0"]
    job = subprocess.Popen(
        [*SRUN, *train, *often], cwd=tmp_path, env=slurm, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: list(tmp_path.glob(f"{SCRATCH}/checkpoint-*")), 120, "a checkpoint", job=job, every_s=0.1)
    os.kill(_processes(tmp_path)[killed], signal.SIGKILL)
    began = time.monotonic()
    _, err = job.communicate(timeout=120)
    print(f"\nnode {killed} killed: the others ended after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 60
    assert job.returncode != 0
    assert re.search(r"machine \S+ ended, or cannot be|first machine \(\S+\) ended, or cannot be", err), err[-3000:]
    done = run(*SRUN, *train, *often)
    assert "sft: going on from the last checkpoint, after step" in done.stderr, err + done.stderr


def test_node_that_does_not_come_is_named_within_a_minute(run):
    began = time.monotonic()
    only_first = 'test "$SLURM_NODEID" = 1 || exec "$@"'
    train = [sys.executable, str(ROOT / "train.py"), *SMALL, *NODES, "trainer=ddp"]
    ended = run(*SRUN[:-1], "bash", "-c", only_first, "bash", *train, code=1)
    assert time.monotonic() - began < 75  # with the start of Python
    assert re.search(r"machines that have not joined \S+ within 50 s: n2\. Fix: ", ended.stderr)


def test_command_without_its_number_of_nodes_is_refused(run):
    ended = run(*SRUN, str(ROOT / "train.py"), *SMALL, *ONE, code=2)
    assert "trainer.num_nodes: got 1, but 2 processes run this command, each all of it" in ended.stderr


def test_cancelled_job_saves_and_ends_with_143(slurm, tmp_path):
    train = [str(ROOT / "train.py"), *SMALL, *LONG, "trainer=ddp", *NODES, "until=sft"]
    log = tmp_path / "log"
    with log.open("w") as stderr:
        job = subprocess.Popen([*SRUN, *train], cwd=tmp_path, env=slurm, stdout=subprocess.DEVNULL, stderr=stderr)
    wait_until(lambda: "first optimizer step" in log.read_text(), 120, "a step of the training", job=job, every_s=0.1)
    queue = subprocess.run(["squeue", "-h", "-o", "%i"], env=slurm, capture_output=True, text=True, check=True)
    (number,) = queue.stdout.split()
    began = time.monotonic()
    subprocess.run(["scancel", "--signal=TERM", number], env=slurm, check=True)
    job.wait(120)
    err = log.read_text()
    print(f"\nscancel: saved and ended after {time.monotonic() - began:.1f} s")
    assert "stopped by SIGTERM. Finished work is kept" in err
    assert "exit code 143" in err or "Exit 143" in err or job.returncode == 143, err[-2000:]
    assert len(list(tmp_path.glob(f"{SCRATCH}/checkpoint-*"))) == 1


def test_requeued_job_goes_on_from_where_it_was(slurm, tmp_path):
    command = " ".join(map(str, [ROOT / "train.py", *SMALL, "trainer=ddp", *NODES, "until=sft", "sft.tune.epochs=40",
                                 "trainer.checkpoint_every_s=1"]))  # fmt: skip
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\n#SBATCH -N 2 --ntasks-per-node=1 --requeue --open-mode=append -o {tmp_path}/log\n"
        f"srun {sys.executable} {command}\n"
    )
    sent = subprocess.run(["sbatch", "--parsable", script], cwd=tmp_path, env=slurm, capture_output=True, text=True)
    number = sent.stdout.strip()
    wait_until(lambda: list(tmp_path.glob(f"{SCRATCH}/checkpoint-*")), 120, "a checkpoint", every_s=0.1)
    subprocess.run(["scontrol", "requeue", number], env=slurm, check=True)

    def ended() -> bool:
        shown = subprocess.run(["scontrol", "show", "job", number], env=slurm, capture_output=True, text=True).stdout
        return "JobState=COMPLETED" in shown or "JobState=FAILED" in shown

    wait_until(ended, 400, "the end of the job", every_s=0.1)
    log = (tmp_path / "log").read_text()
    saved = re.findall(r"sft: stopped after step (\d+) of \d+ by SIGTERM; that is saved", log)
    assert len(saved) == 1, log[-4000:]
    assert f"sft: going on from the last checkpoint, after step {saved[0]} of" in log
    assert "student random 0.5: outputs/students/random-0.5" in log
