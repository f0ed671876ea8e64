"""Commands on two machines, which are two copies on this one: training and scoring shared, faults, going on."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cotpress.modeling.tiny import tiny_model
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.parts import plan_chunks
from support.commands import ROOT, Command, Stop, environment
from support.training_jobs import losses

pytestmark = pytest.mark.timeout(300)
SETTINGS = [
    "model=tiny", "scorer=random", "ratio=0.5", "data.num_traces=20", "benchmark.num_problems=2",
    "benchmark.max_new_tokens=8", "evaluation.baselines=[]", "until=sft", "sft.tune.sequences_per_step=4",
    "trainer.accelerator=cpu", "trainer.tokens_per_batch=300",  # several micro-batches per step: one for each machine
]  # fmt: skip
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2", "trainer.num_threads=1"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _student(output: Path) -> list[tuple[int, float, float, int]]:
    (folder,) = (output / "artifacts" / "sft").iterdir()
    return losses(folder)


def _trained_as_one(command: Command, folder: Path, log: str, other_log: str) -> None:
    """Compare the student of two machines with that of one process."""
    assert "works for the first machine" in other_log
    ((steps, tokens),) = re.findall(r"sft: (\d+) steps, (\d+) tokens in", log)
    assert int(tokens) > 300 * int(steps), "every step needs micro-batches for both machines"
    one = command("train.py", *SETTINGS, "output_root=one")
    assert one.returncode == 0, one.stderr[-3000:]
    got, expected = _student(folder / "outputs"), _student(command.folder / "one")
    assert [(r[0], r[2], r[3]) for r in got] == [(r[0], r[2], r[3]) for r in expected]
    assert [r[1] for r in got] == pytest.approx([r[1] for r in expected], rel=2e-4)


def test_two_machines_train_as_one(command: Command, tmp_path: Path) -> None:
    meet = f"trainer.rendezvous=127.0.0.1:{_free_port()}"
    done = command.together(2, "train.py", *SETTINGS, *TWO, meet, cwd=tmp_path)
    assert [job.returncode for job in done] == [0, 0], done[0].stderr[-3000:] + done[1].stderr[-3000:]
    other, first = sorted(done, key=lambda job: "works for the first machine" not in job.stderr)
    assert "student random 0.5: outputs/students/random-0.5" in first.stdout
    _trained_as_one(command, tmp_path, first.stderr, other.stderr)


def test_two_machines_that_torchrun_starts_train_as_one(command: Command, tmp_path: Path) -> None:
    port = _free_port()
    started = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}",
                "--master-addr=127.0.0.1", f"--master-port={port}", str(ROOT / "train.py"), *SETTINGS, *TWO,
            ],
            cwd=tmp_path, env={**environment(), "PYTHONPATH": str(ROOT / "src")}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    (first, first_log), (_, second_log) = (process.communicate(timeout=240) for process in started)
    assert [process.returncode for process in started] == [0, 0], first_log[-3000:] + second_log[-3000:]
    assert "student random 0.5: outputs/students/random-0.5" in first
    _trained_as_one(command, tmp_path, first_log, second_log)


@pytest.mark.slow
def test_command_whose_machine_was_killed_ends_on_all_and_goes_on(command: Command, tmp_path: Path) -> None:
    arguments = [*SETTINGS, *TWO, "trainer.checkpoint_every_s=0", f"trainer.rendezvous=127.0.0.1:{_free_port()}"]
    stop = Stop(pattern="sft: computing|works for", exists="outputs/artifacts/.partial/sft-*/scratch/checkpoint-*")
    done = command.together(2, "train.py", *arguments, cwd=tmp_path, stop=stop)
    assert sorted(job.returncode for job in done) == [-9, 1]
    other = next(job for job in done if job.returncode == 1)
    assert "ended, or cannot be reached any more" in other.stderr
    again = command.together(2, "train.py", *arguments, cwd=tmp_path)
    assert [job.returncode for job in again] == [0, 0], again[0].stderr[-3000:] + again[1].stderr[-3000:]
    assert "sft: going on from the last checkpoint" in again[0].stderr + again[1].stderr


@pytest.mark.slow
def test_scores_of_two_machines_are_those_of_one(command: Command, tmp_path: Path) -> None:
    arguments = ["model=tiny", "scorer=self_information", "ratio=0.5", "data.num_traces=3000"]
    two = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2", "trainer.num_threads=1"]
    meet = f"trainer.rendezvous=127.0.0.1:{_free_port()}"
    done = command.together(2, "compress.py", *arguments, *two, meet, "output_root=two", cwd=tmp_path)
    assert [job.returncode for job in done] == [0, 0], done[0].stderr[-3000:] + done[1].stderr[-3000:]
    one = command("compress.py", *arguments, "trainer.num_threads=1", "output_root=one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr[-3000:]
    data = tmp_path.glob("two/artifacts/data/*/traces.parquet")  # of the traces, and of those to distill
    assert max(len(plan_chunks(traces)) for traces in data) >= 2, "every machine needs a chunk"
    assert any("1 of 2 workers" in job.stderr for job in done)
    for file in ("score/*/*.parquet", "compress/*/compressed.parquet"):
        (a,), (b,) = (list((tmp_path / root / "artifacts").glob(file)) for root in ("one", "two"))
        assert a.read_bytes() == b.read_bytes(), file


@pytest.mark.slow
def test_sigterm_on_one_machine_saves_on_all(command: Command, tmp_path: Path) -> None:
    arguments = [*SETTINGS, *TWO, "sft.tune.epochs=200", f"trainer.rendezvous=127.0.0.1:{_free_port()}"]
    stop = Stop(pattern="first optimizer step", of_any=True, signal=15)
    done = command.together(2, "train.py", *arguments, cwd=tmp_path, stop=stop)
    assert [job.returncode for job in done] == [143, 143], done[0].stderr[-3000:] + done[1].stderr[-3000:]
    assert any("that is saved, and the same command goes on from there" in job.stderr for job in done)
    assert list(tmp_path.glob("outputs/artifacts/.partial/sft-*/scratch/checkpoint-*"))


def _two(folder: Path, changes: Sequence[Mapping[str, str]], *arguments: Sequence[str]) -> list[tuple[int, str]]:
    """Start one command on each of two machines, by argument and by environment; exit codes and logs."""
    jobs = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *SETTINGS, *TWO, *own],
            cwd=folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**environment(), "PYTHONPATH": str(ROOT / "src"), "NODE_RANK": str(rank), **changed},
        )
        for rank, (changed, own) in enumerate(zip(changes, arguments, strict=True))
    ]  # fmt: skip
    logs = [job.communicate(timeout=120)[1] for job in jobs]
    return [(job.returncode, log) for job, log in zip(jobs, logs, strict=True)]


def _nothing_is_left(folder: Path) -> bool:
    return not list(folder.glob("*/artifacts")) and not list(folder.glob("*/.nodes/*"))


@pytest.mark.slow
def test_machine_with_other_code_ends_both(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    with (tmp_path / "src/cotpress/records.py").open("a") as source:
        source.write("\n")
    meet = f"trainer.rendezvous=127.0.0.1:{_free_port()}"
    (code, log), (other_code, other_log) = _two(tmp_path, [{}, {"PYTHONPATH": str(tmp_path / "src")}], [meet], [meet])
    assert (code, other_code) == (1, 1), log + other_log
    for text in (log, other_log):
        assert re.search(r"machine \S+ runs other code than \S+: cotpress \w{12} instead of \w{12}", text)
        assert "Traceback" not in text
    assert _nothing_is_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments"),
    [("train.py", SETTINGS[1:]), ("compress.py", ["scorer=self_information", "ratio=0.5", "data.num_traces=20"])],
)
def test_machine_with_another_base_model_ends_both(tmp_path: Path, program: str, arguments: Sequence[str]) -> None:
    model, jobs = tiny_model(ArtifactStore(tmp_path / "store")).path, []
    port = _free_port()
    for rank in (0, 1):
        shutil.copytree(model, tmp_path / str(rank) / "base")
        settings = json.loads((model / "config.json").read_text())
        (tmp_path / str(rank) / "base/config.json").write_text(json.dumps({**settings, "note": rank}))
        own = ["model.source=hub", "model.path=./base", f"output_root={tmp_path}/shared"]
        jobs.append(subprocess.Popen(
            [
                sys.executable, str(ROOT / program), "model=tiny", *own, *arguments, *TWO[1:],
                f"trainer.rendezvous=127.0.0.1:{port}",
            ],
            cwd=tmp_path / str(rank), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**environment(), "PYTHONPATH": str(ROOT / "src"), "NODE_RANK": str(rank)},
        ))  # fmt: skip
    for log in [job.communicate(timeout=120)[1] for job in jobs]:
        changed = r"model\.directory \w{12} instead of \w{12}"
        assert re.search(rf"machine \S+: it has another model at './base' than .*: {changed}\. Fix", log), log[-3000:]
        assert "Traceback" not in log
    assert [job.returncode for job in jobs] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["another port", "another folder"])
def test_machine_that_does_not_find_the_first_one_ends_both_within_a_minute(tmp_path: Path, fault: str) -> None:
    port = _free_port()
    meet = [f"trainer.rendezvous=127.0.0.1:{port}", "output_root=here"]
    other = (
        [f"trainer.rendezvous=127.0.0.1:{_free_port()}", "output_root=here"]
        if fault == "another port"
        else [meet[0], "output_root=there"]
    )
    began = time.monotonic()
    (code, log), (other_code, other_log) = _two(tmp_path, [{}, {}], meet, other)
    assert time.monotonic() - began < 75  # with the start of Python
    assert (code, other_code) == (1, 1), log + other_log
    host = re.escape(socket.gethostname())
    assert re.search(rf"machines that have not joined {host} within 50 s: number 1\. Fix: ", log)
    folder = tmp_path / ("here" if fault == "another port" else "there") / ".nodes"
    assert f"found no first machine within 50 s: there is no file of it in '{folder}'" in other_log
    assert "Traceback" not in log + other_log
    assert _nothing_is_left(tmp_path)
