"""Several workers, one per device: results, logs, failures, signals."""

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import WAIT, Place, here, host_group, num_local_devices, run_on_devices
from cotpress.devices.stopping import StopRequest
from cotpress.errors import ArtifactError, ConfigError, MissingExtraError, TrainingError, WorkerError
from cotpress.store.artifacts import ArtifactStore, Summary
from support import device_jobs
from support.waiting import wait_until, wait_until_gone

TWO = TrainerConfig(accelerator="cpu", devices=2, num_threads=1)
ONE = TrainerConfig(accelerator="cpu", num_threads=1)


@pytest.mark.slow
def test_results_messages_and_logs_of_two_workers_arrive(caplog: pytest.LogCaptureFixture) -> None:
    messages: list[object] = []
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level(logging.INFO):
        results = run_on_devices(device_jobs.places, (10,), trainer=TWO, on_message=messages.append)
    assert results == [(0, 2, 21), (1, 2, 21)]
    assert sorted(messages) == [("rank", 0), ("rank", 1)]
    lines = [r.getMessage() for r in caplog.records if r.name == "cotpress.test"]
    assert sorted(lines) == ["rank 0 is at work", "rank 1: careful with {'a': 1}"]
    assert here() == Place()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_one_device_is_a_call_in_this_process() -> None:
    messages: list[object] = []
    assert run_on_devices(lambda: os.getpid(), (), trainer=ONE) == [os.getpid()]
    assert run_on_devices(device_jobs.places, (10,), trainer=ONE, on_message=messages.append) == [(0, 1, 10)]
    assert messages == [("rank", 0)]


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        pytest.param("for users", TrainingError, "^the loss is not finite$", marks=pytest.mark.slow),
        pytest.param("odd constructor", MissingExtraError, "a needs the package 'b'", marks=pytest.mark.slow),
        ("defect", WorkerError, "rank 1 failed: ZeroDivisionError: by nothing. The traceback is in the log"),
        ("killed", WorkerError, "rank 1 ended: killed by SIGKILL: out of memory, or somebody's kill -9"),
        pytest.param("exit", WorkerError, "rank 1 failed: SystemExit: 3", marks=pytest.mark.slow),
    ],
)
def test_failing_worker_stops_the_others_and_gives_the_reason(
    kind: str, error: type[Exception], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=message):
        run_on_devices(device_jobs.fails, (kind,), trainer=TWO)
    assert time.monotonic() - started < 20
    assert ("in fails" in caplog.text) == (kind in ("defect", "exit"))


@pytest.mark.usefixtures("short_grace")
def test_full_disk_of_a_worker_is_an_error_for_users_with_its_fix(tmp_path: Path) -> None:
    def produce(workdir: Path) -> Summary:
        run_on_devices(device_jobs.fails, ("full disk",), trainer=TWO)
        return Summary(num_rows=0)

    with pytest.raises(ArtifactError, match=r"sft: cannot write below .*: No space left on device.*output_root=DIR"):
        ArtifactStore(tmp_path).build("sft", {"test": 1}, produce)


def test_deterministic_reaches_the_workers() -> None:
    trainer = replace(TWO, deterministic=True)
    assert run_on_devices(device_jobs.deterministic, (), trainer=trainer) == [(True, ":4096:8")] * 2


def test_groups_of_the_workers_wait_as_long_as_the_first_one() -> None:
    """Validation on the first worker may take longer than torch's own limit of half an hour."""
    assert host_group() is None
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        stop = StopRequest()
        with stop.noted():
            groups = [host_group(), stop._group]
        assert [g._get_backend(torch.device("cpu")).options._timeout for g in groups] == [WAIT] * 2
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_error_of_the_message_handler_reaches_the_caller() -> None:
    def full(message: object) -> None:
        raise OSError(f"no space for {message}")

    with pytest.raises(OSError, match="no space for"):
        run_on_devices(device_jobs.places, (10,), trainer=TWO, on_message=full)


@pytest.mark.slow
def test_environment_and_threads_are_those_of_the_caller_but_not_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTPRESS_TEST", "here")
    monkeypatch.setenv("RANK", "7")
    assert run_on_devices(device_jobs.setting, ("COTPRESS_TEST",), trainer=TWO) == [("here", "0", 1), ("here", "1", 1)]


_WAIT = """
import signal, sys, pathlib
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background starts with it ignored
sys.path.insert(0, {tests!r})
from support import device_jobs
from cotpress.devices import launch
from cotpress.devices.launch import run_on_devices
from cotpress.devices.config import TrainerConfig
launch._PRELOAD = ()  # the function needs none of these modules, whose import takes seconds
if __name__ == "__main__":
    try:
        run_on_devices(device_jobs.waits, (pathlib.Path("."),), trainer=TrainerConfig(accelerator="cpu", devices=2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_workers_end_with_the_process_that_started_them(number: int, code: int, tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text(_WAIT.format(tests=str(Path(device_jobs.__file__).parents[1])))
    job = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    workers = _workers_of(job, tmp_path)
    job.send_signal(number)
    assert job.wait(timeout=30) == code
    wait_until_gone(workers, 10)


def _workers_of(job: "subprocess.Popen[bytes]", folder: Path) -> list[int]:
    """Wait until both workers of a job have written their process ids below `folder`; returns these."""
    files = [folder / str(rank) for rank in (0, 1)]
    wait_until(lambda: all(file.exists() for file in files), 60, "the process ids of both workers", job=job)
    return [int(file.read_text()) for file in files]


def test_null_devices_on_a_cpu_is_one_and_too_many_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_local_devices(TrainerConfig(accelerator="cpu", devices=None)) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert num_local_devices(TrainerConfig(devices=None)) == 4
    with pytest.raises(ConfigError, match="got 8, but torch sees 4 GPUs"):
        num_local_devices(TrainerConfig(devices=8))


def test_worker_that_saves_after_sigterm_to_all_processes_is_waited_for(tmp_path: Path) -> None:
    """A scheduler signals every process of a job, also the server from which the workers are forked."""
    script = tmp_path / "save.py"
    text = _WAIT.format(tests=str(Path(device_jobs.__file__).parents[1])).replace("waits", "saves")
    script.write_text("import logging\nlogging.basicConfig(filename='log', level=logging.INFO)\n" + text)
    job = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    _workers_of(job, tmp_path)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(timeout=30) != 0
    assert all((tmp_path / f"saved-{rank}").exists() for rank in (0, 1))
    assert (tmp_path / "log").read_text().count("has saved") == 1, "what a worker says meanwhile is in the log"
