"""A job on several devices of one machine has nothing open to other machines."""

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import run_on_devices
from support import device_jobs
from support.commands import FEW_PROBLEMS, Command
from support.sockets import Listener, accepts, family, listeners, outer_addresses
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's /proc")
TWO = TrainerConfig(accelerator="cpu", devices=2, num_threads=1)
LOOPBACK = {"127.0.0.1", "::1"}


def test_a_client_on_another_address_of_the_machine_finds_nothing_open(tmp_path: Path) -> None:
    before, modes = listeners([os.getpid()]), list[Any]()
    job = threading.Thread(
        target=lambda: modes.extend(run_on_devices(device_jobs.stays_connected, (tmp_path,), trainer=TWO))
    )
    job.start()
    try:
        wait_until(lambda: all((tmp_path / rank).exists() for rank in "01"), 60, "the files of both workers")
        found = listeners(family(os.getpid())) - before
        opened = [(address, port) for address in outer_addresses() for _, port in found if accepts(address, port)]
    finally:
        (tmp_path / "go").touch()
        job.join()
    assert found, "gloo listens"
    assert {address for address, _ in found} <= LOOPBACK
    assert opened == []
    assert modes == [(0o600, 0o700)] * 2, "of the file through which they meet, and its folder"


def test_open_sockets_are_seen() -> None:
    with socket.create_server(("0.0.0.0", 0)) as wide, socket.create_server(("127.0.0.1", 0)) as narrow:
        ports = [s.getsockname()[1] for s in (wide, narrow)]
        assert {("0.0.0.0", ports[0]), ("127.0.0.1", ports[1])} <= listeners(family(os.getpid()))
        for address in (a for a in outer_addresses() if "." in a):
            assert (accepts(address, ports[0]), accepts(address, ports[1])) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_training_on_two_devices_never_listens_beyond_loopback(strategy: str, command: Command) -> None:
    found, ended = set[Listener](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            found.update(listeners(family(os.getpid())) - before)

    before, watching = listeners([os.getpid()]), threading.Thread(target=watch)
    watching.start()
    try:
        done = command(
            "train.py", "model=tiny", "trainer.accelerator=cpu", "trainer.devices=2", f"trainer.strategy={strategy}",
            "scorer=random", "data.num_traces=24", *FEW_PROBLEMS, "sft=full", "evaluation.baselines=[]",
            "sft.validation_problems=0", f"output_root={strategy}",
        )  # fmt: skip
    finally:
        ended.set()
        watching.join()
    assert done.returncode == 0, done.stderr[-2000:]
    assert found
    assert {address for address, _ in found} <= LOOPBACK
