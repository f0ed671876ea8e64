"""Several machines as threads of this process: how they find each other, and how each leaves."""

import json
import logging
import os
import queue
import re
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest
import torch

import cotpress
from cotpress.config import CompressConfig, EvaluateConfig
from cotpress.devices import launch, nodes
from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import Alike, Place, here, run_on_devices, work_for
from cotpress.devices.nodes import Meeting, check_alone, find_meeting, join, leading, open_port, others
from cotpress.devices.processes import Outcome, follow
from cotpress.errors import ConfigError, CotpressError, DataError, Terminated, WorkerError
from cotpress.jobs import job
from cotpress.settings import check_settings
from cotpress.tasks import COMPRESS, RUNS, RunsJob
from support import device_jobs
from support.waiting import wait_until, wait_until_gone

FIRST, SECOND = Meeting(name="job", number=0), Meeting(name="job", number=1)
ONE = TrainerConfig(accelerator="cpu", devices=1, num_threads=1, num_nodes=2)
SETTINGS = {"ratio": 0.5, "data": {"name": "planted"}}


def _open(meeting: Meeting = FIRST) -> nodes.Port:
    port = open_port(meeting)
    assert isinstance(port, nodes.Port), port
    return port


def _number(port: nodes.Port) -> int:
    return int(port.listener.getsockname()[1])


def _lead(folder: Path, work: Callable[[], Any], meeting: Meeting = FIRST, num_nodes: int = 2) -> Any:
    port = _open(meeting)
    with leading(port, meeting, num_nodes, folder, SETTINGS) as results:
        results.append(work())
    return results[0]


def _other(folder: Path, meeting: Meeting = SECOND, settings: Mapping[str, Any] = SETTINGS) -> dict[str, Any]:
    """Start the second node in a thread (`thread`); its result or error is put into the same dictionary."""
    got: dict[str, Any] = {}

    def follow() -> None:
        try:
            got["value"] = work_for(join(meeting, folder, settings, "it has the number 1"))
        except BaseException as error:
            got["error"] = error

    got["thread"] = threading.Thread(target=follow)
    got["thread"].start()
    return got


def test_workers_of_two_machines_are_one_group_and_the_other_leaves_with_the_result(tmp_path: Path) -> None:
    got, messages = _other(tmp_path), list[object]()
    result = _lead(tmp_path, lambda: run_on_devices(device_jobs.places, (10,), trainer=ONE, on_message=messages.append))
    got["thread"].join()
    assert result == [(0, 2, 21), (1, 2, 21)]
    assert sorted(messages) == [("rank", 0), ("rank", 1)]
    assert got["value"] == result
    assert here() == Place()
    assert others() == []


def test_file_of_the_meeting_is_for_its_user_alone_and_goes_when_all_have_come(tmp_path: Path) -> None:
    seen: list[Any] = []

    def look(*_: object) -> None:
        (path,) = (tmp_path / nodes.FOLDER).glob("*.json")
        seen.append((stat.S_IMODE(path.stat().st_mode), json.loads(path.read_text()).keys()))

    before = os.umask(0)
    try:
        port = _open()
        with nodes._listening(port, FIRST, tmp_path):
            look()
    finally:
        os.umask(before)
    assert seen == [(0o600, {"addresses", "port", "key"})]
    assert list((tmp_path / nodes.FOLDER).iterdir()) == []


def test_connection_without_the_key_is_refused_and_nothing_of_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = _open()
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        with pytest.raises((AuthenticationError, EOFError, OSError)):
            Client(("127.0.0.1", _number(port)), authkey=b"guess").send("x")
        got = _other(tmp_path)
        node, connection = arrivals.get(timeout=20)  # that one comes in all the same
        connection.close()
    got["thread"].join()
    assert node.number == 1
    assert "a connection from 127.0.0.1, no machine of this command, was refused" in caplog.text


@pytest.mark.parametrize(
    "error", [DataError("no rows"), ConfigError("a: got 1"), Terminated("SIGTERM"), KeyboardInterrupt()]
)
def test_failure_of_the_first_machine_is_that_of_the_others(tmp_path: Path, error: BaseException) -> None:
    got = _other(tmp_path)

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        _lead(tmp_path, fail)
    got["thread"].join()
    assert type(got["error"]) is type(error)
    assert str(error) in str(got["error"])


def test_defect_of_the_first_machine_ends_the_others_with_its_text(tmp_path: Path) -> None:
    got = _other(tmp_path)
    with pytest.raises(ZeroDivisionError):
        _lead(tmp_path, lambda: 1 // 0)
    got["thread"].join()
    assert "the first machine failed: ZeroDivisionError" in str(got["error"])


def test_machine_that_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "JOIN_S", 0.3)
    meeting = replace(FIRST, names=("n1", "n2", "n3"))
    got = _other(tmp_path, replace(SECOND, number=1))
    with pytest.raises(WorkerError, match=r"have not joined .* within 0.3 s: n3\. Fix: see the output of"):
        _lead(tmp_path, int, meeting, num_nodes=3)
    got["thread"].join()
    assert "n3" in str(got["error"])


def test_wait_for_other_machines_is_told_at_once_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nodes, "JOIN_S", 1.0)
    monkeypatch.setattr(nodes, "REMIND_S", 0.4)
    caplog.set_level("INFO")
    with pytest.raises(WorkerError, match="have not joined"):
        _lead(tmp_path, int, replace(FIRST, names=("n1", "n2", "n3")), num_nodes=3)
    lines = [line for line in caplog.messages if line.startswith("waiting until")]
    assert len(lines) == 3, lines
    here = re.escape(socket.gethostname())
    assert re.fullmatch(
        rf"waiting until \d\d:\d\d:\d\d, 1 s at most, for other machines to join {here}: n2, n3", lines[0]
    )
    caplog.clear()
    with pytest.raises(WorkerError, match="found no first machine"):
        join(SECOND, tmp_path, SETTINGS, "it has the number 1")
    lines = [line for line in caplog.messages if line.startswith("waiting until")]
    assert len(lines) == 3, lines
    assert lines[0].endswith("s at most, for the first machine; this one is another, as it has the number 1")
    assert lines[1].endswith(f". So far there is no file of it in '{tmp_path / nodes.FOLDER}'")


def test_machines_on_one_host_divide_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    got, free = _other(tmp_path), replace(ONE, num_threads=None)
    found = _lead(tmp_path, lambda: run_on_devices(device_jobs.setting, ("COTPRESS_TEST",), trainer=free))
    got["thread"].join()
    assert [threads for *_, threads in found] == [3, 3]


def test_machine_that_finds_no_first_one_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "JOIN_S", 0.3)
    with pytest.raises(WorkerError, match=r"found no first machine within 0.3 s: there is no file of it in '"):
        join(SECOND, tmp_path, SETTINGS, "")
    port = _open()
    with nodes._listening(port, FIRST, tmp_path):
        address = ("127.0.0.1", 1)
        with pytest.raises(WorkerError, match=r"127\.0\.0\.1:1 does not answer"):
            join(replace(SECOND, address=address), tmp_path, SETTINGS, "")


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"code": {"torch": "1.0"}}, SETTINGS, r"runs other code than .*: torch 1\.0 instead of \S+\. Fix: the same"),
        (
            {},
            {"ratio": 0.7, "data": {"name": "planted", "limit": None}},
            r"was started with other settings than \S+: ratio=0\.7 instead of 0\.5; data\.limit=null instead of "
            r"missing\. Fix: the same command on all machines",
        ),
        (
            {"number": 5},
            SETTINGS,
            r"has the number 5, which another one has, or which is not among 1 to 1\. Fix",
        ),
    ],
)
def test_machines_that_do_not_fit_together_end_with_the_difference(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    settings: Mapping[str, Any],
    message: str,
) -> None:
    usual = nodes.this_node

    def introduced(number: int | None, settings: Mapping[str, Any]) -> nodes.Node:
        node = usual(number, settings)
        return node if number == 0 else replace(node, **{**change, "code": {**node.code, **change.get("code", {})}})

    monkeypatch.setattr(nodes, "this_node", introduced)
    got = _other(tmp_path, settings=settings)
    with pytest.raises(WorkerError, match=message):
        _lead(tmp_path, int)
    got["thread"].join()
    assert isinstance(got["error"], WorkerError)


def test_two_machines_of_one_number_end_with_the_fix(tmp_path: Path) -> None:
    got = [_other(tmp_path), _other(tmp_path)]
    with pytest.raises(WorkerError, match=r"has the number 1, which another one has, .*Fix: NODE_RANK=0, 1"):
        _lead(tmp_path, int, num_nodes=3)
    for other in got:
        other["thread"].join()
        assert "has the number 1, which another one has" in str(other["error"])


def test_ranks_follow_the_numbers_of_the_machines_not_the_order_of_their_coming(tmp_path: Path) -> None:
    got = [_other(tmp_path, replace(SECOND, number=2))]
    late = threading.Timer(1.0, lambda: got.append(_other(tmp_path)))
    late.start()
    assert _lead(tmp_path, lambda: [other.node.number for other in others()], num_nodes=3) == [1, 2]
    for other in got:
        other["thread"].join()


def test_first_machine_that_is_lost_ends_the_others(tmp_path: Path) -> None:
    got = _other(tmp_path)
    port = _open()
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        _, connection = arrivals.get(timeout=20)
        connection.close()
    got["thread"].join()
    assert re.search(r"the first machine \(\S+\) ended, or cannot be reached any more", str(got["error"]))
    assert type(got["error"]) is nodes.NotJoinedError


def test_first_machine_that_is_lost_after_some_work_had_been_joined(tmp_path: Path) -> None:
    got, port = _other(tmp_path), _open()
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        node = nodes.OtherNode(*arrivals.get(timeout=20))
        node.start(nodes.Work(device_jobs.places, (0,), ONE, 1, 2, 1, alike=(Alike(device_jobs.no_model, "base"), {})))
        node.end(20)
        assert node.outcome is not None
        assert node.outcome.error == "no such model"
        node._connection.send(nodes.Stop(None))  # too late, so it has nothing to stop
        node._connection.close()
    got["thread"].join()
    assert "ended, or cannot be reached any more" in str(got["error"])
    assert type(got["error"]) is WorkerError


def test_workers_of_another_machine_end_when_the_first_one_is_lost(tmp_path: Path) -> None:
    got, port = _other(tmp_path), _open()
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        node = nodes.OtherNode(*arrivals.get(timeout=20))
        node.start(nodes.Work(device_jobs.waits, (tmp_path,), ONE, 1, 2, 1))
        wait_until((tmp_path / "1").exists, 60, "the process id of the worker")
        node._connection.close()
    got["thread"].join(20)  # the worker would wait for a minute
    assert not got["thread"].is_alive()
    assert "ended, or cannot be reached any more" in str(got["error"])
    wait_until_gone([int((tmp_path / "1").read_text())])


def test_machine_that_does_not_stop_in_time_is_given_up(tmp_path: Path) -> None:
    given_up = threading.Event()

    def ignore() -> None:
        with join(SECOND, tmp_path, SETTINGS, ""):
            given_up.wait(20)

    def lead() -> nodes.OtherNode:
        (node,) = others()
        assert isinstance(node, nodes.OtherNode)
        node.start(nodes.Work(device_jobs.places, (0,), ONE, 1, 2, 1))
        node.terminate(0.2)
        node.end(0.2)
        given_up.set()
        return node

    thread = threading.Thread(target=ignore)
    thread.start()
    node = _lead(tmp_path, lead)
    thread.join()
    assert re.fullmatch(r"machine \S+\[\d+\] did not stop in time", node.outcome.error)


def test_machine_that_is_cut_off_is_noticed_within_the_time_that_is_documented(tmp_path: Path) -> None:
    """What the system is told at both ends; packets that get lost need a network of their own."""
    port, firsts = _open(), list[nodes.FirstNode]()
    thread = threading.Thread(target=lambda: firsts.append(join(SECOND, tmp_path, SETTINGS, "")))
    thread.start()
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        _, connection = arrivals.get(timeout=20)
        thread.join()
    for end in (connection, firsts[0]._connection):
        with socket.socket(fileno=os.dup(end.fileno())) as sock:
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            idle, interval, count, unsent_ms = (
                sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names
            )
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert idle + interval * count == nodes.LOST_S == unsent_ms / 1000
            assert not any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)), "else an idle one would end"
        end.close()


@pytest.mark.usefixtures("short_grace")
def test_machine_that_is_lost_while_it_works_is_named_at_once(tmp_path: Path) -> None:
    def leave() -> None:
        first = join(SECOND, tmp_path, SETTINGS, "")
        with first:
            first.receive()

    thread = threading.Thread(target=leave)
    thread.start()
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"machine \S+\[\d+\] ended, or cannot be reached any more"):
        _lead(tmp_path, lambda: run_on_devices(device_jobs.fails, ("waits",), trainer=ONE))
    assert time.monotonic() - started < 30
    thread.join()


@pytest.mark.parametrize("kind", ["for users", pytest.param("killed", marks=pytest.mark.slow)])
def test_failure_on_another_machine_ends_the_command(tmp_path: Path, kind: str) -> None:
    got = _other(tmp_path)
    expected = {
        "for users": r"^machine \S+: the loss is not finite",
        "killed": r"^machine \S+: the worker of rank 1 ended: killed by SIGKILL",
    }
    with pytest.raises(CotpressError, match=expected[kind]):
        _lead(tmp_path, lambda: run_on_devices(device_jobs.fails, (kind,), trainer=ONE))
    got["thread"].join()
    assert isinstance(got["error"], CotpressError)


@pytest.mark.usefixtures("short_grace")
def test_machine_with_another_model_ends_the_command(tmp_path: Path) -> None:
    got, alike = _other(tmp_path), Alike(device_jobs.model_of_the_thread, "/models/base")
    other = got["thread"].name[:12]
    with pytest.raises(
        WorkerError, match=r"^machine \S+\[\d+\]: it has another model at '/models/base'.*Fix:"
    ) as failed:
        _lead(tmp_path, lambda: run_on_devices(device_jobs.places, (0,), trainer=ONE, alike=alike))
    got["thread"].join()
    assert f": model.directory {other} instead of MainThread. Fix" in str(failed.value)
    assert str(got["error"]) == str(failed.value)


@pytest.mark.usefixtures("short_grace")
def test_machine_with_another_kind_of_device_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picked(_: TrainerConfig) -> torch.device:
        return torch.device("cuda" if threading.current_thread() is threading.main_thread() else "cpu")

    monkeypatch.setattr(launch, "pick_device", picked)
    monkeypatch.setattr(launch, "num_local_devices", lambda _: 1)
    got, auto = _other(tmp_path), replace(ONE, accelerator="auto")
    with pytest.raises(
        WorkerError, match=r"^machine \S+: it has .* or computes otherwise: accelerator cpu instead of cuda"
    ):
        _lead(tmp_path, lambda: run_on_devices(device_jobs.places, (0,), trainer=auto, alike=Alike(dict, "base")))
    got["thread"].join()


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "rendezvous", "expected"),
    [
        ({**SLURM, "SLURM_NODEID": "1"}, None, ("slurm-7-0-0", 1, None)),
        ({**SLURM, "SLURM_NODEID": "0", "SLURM_RESTART_COUNT": "2"}, None, ("slurm-7-0-2", 0, None)),
        ({**TORCHRUN, "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "1"}, None, ("torchrun-x-a-1-", 1, None)),
        ({}, "node1:29400", ("node1-29400", None, ("node1", 29400))),
        ({"NODE_RANK": "0"}, "node1:29400", ("node1-29400", 0, ("node1", 29400))),
    ],
)
def test_srun_torchrun_or_an_address_say_how_machines_meet(
    environment: Mapping[str, str], rendezvous: str | None, expected: tuple[object, ...]
) -> None:
    found = find_meeting(TrainerConfig(num_nodes=2, rendezvous=rendezvous), environment)
    assert (found.name, found.number, found.address) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, r"nothing says how the machines find each other\. Fix: start the command with srun -N 2"),
        (
            {**SLURM, "SLURM_STEP_NUM_TASKS": "8"},
            r"the command runs in 8 processes on 2 machines, allowed: one on each.*Fix: srun -N 2 --ntasks-per-node=1",
        ),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "3"}, r"in 3 processes on 2 machines"),
        (
            {**SLURM, "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "3"},
            r"got 2, but .* in 3 processes on 3 machi",
        ),
        (
            {**TORCHRUN, "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"},
            r"in 16 processes on 2 machines.*Fix: torchrun --nnodes=2 --nproc-per-node=1",
        ),
        ({**TORCHRUN, "WORLD_SIZE": "3"}, r"got 2, but .* in 3 processes on 3 machines"),
    ],
)
def test_machines_that_cannot_meet_are_told_the_command(environment: Mapping[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_meeting(TrainerConfig(num_nodes=2), environment)


@pytest.mark.parametrize("environment", [SLURM, TORCHRUN])
def test_command_for_one_machine_that_several_run_is_refused(environment: Mapping[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"trainer.num_nodes: got 1, but 2 processes run this command"):
        check_alone(environment)
    check_alone({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"})  # a shell in an allocation


def test_parts_of_the_work_may_be_started_several_times_and_runs_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(job, "_perform", lambda *work: done.append(work[1]))
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    shard = CompressConfig(shard="1/2")
    job.perform(COMPRESS, shard, Path())
    assert done == [shard]
    runs = RunsJob(config=EvaluateConfig(runs="outputs"), given=())
    for task, work in ((COMPRESS, CompressConfig()), (RUNS, runs)):
        with pytest.raises(ConfigError, match=r"2 processes run this command.*env -u SLURM_STEP_ID"):
            job.perform(task, work, Path())


def test_code_that_machines_compare_has_the_plugins_and_all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.running_code.cache_clear()
    without = nodes.running_code()
    assert {"torch", "tokenizers", "safetensors", "accelerate"} <= without.keys()
    monkeypatch.setattr(nodes, "LOADED", {device_jobs.__name__})
    nodes.running_code.cache_clear()
    assert "plugins" in nodes.running_code()
    nodes.running_code.cache_clear()


def test_code_that_machines_compare_changes_with_every_file_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    for name in ("__init__.py", "below/a.py"):
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(cotpress, "__file__", str(tmp_path / "__init__.py"))
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: (tmp_path / "below/a.py").write_text("x = 2\n"),
        lambda: (tmp_path / "below/a.py").rename(tmp_path / "below/b.py"),
        lambda: (tmp_path / "c.py").write_text(""),
    ]
    seen = set()
    for change in changes:
        change()
        nodes.running_code.cache_clear()
        seen.add(nodes.running_code()["cotpress"])
    nodes.running_code.cache_clear()
    assert len(seen) == 4


class _Clocks:
    """The module `time`, in which threads other than the main one have clocks of another machine."""

    def __init__(self, skew_s: float) -> None:
        self._skew_s = skew_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def _shift(self, seconds: float) -> float:
        return 0.0 if threading.current_thread() is threading.main_thread() else seconds

    def time(self) -> float:
        return time.time() + self._shift(self._skew_s)

    def monotonic(self) -> float:
        return time.monotonic() + self._shift(1e6 + self._skew_s)  # it begins with the machine


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
@pytest.mark.parametrize("own_is_first", [False, True])
def test_failure_that_came_first_is_told_whatever_the_clocks_of_the_machines_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float, own_is_first: bool
) -> None:
    monkeypatch.setattr(nodes, "time", _Clocks(skew_s))
    its_turn = threading.Event()

    def fail() -> None:
        with join(SECOND, tmp_path, SETTINGS, "") as first:
            its_turn.wait(20)
            first.send(Outcome(error="of another", trace="a", failed_at=nodes.time.monotonic()))
            first.receive()

    def lead() -> BaseException | None:
        (node,) = others()
        assert isinstance(node, nodes.OtherNode)
        own = Local()
        for of_own in (True, False) if own_is_first else (False, True):
            if of_own:
                own.outcome = Outcome(error="of the first", trace="a", failed_at=time.monotonic())
            else:
                its_turn.set()
                follow([node])
            time.sleep(0.05)
        return launch._first_failure([own, node])  # type: ignore[list-item]

    class Local:
        outcome: Outcome | None = None

    thread = threading.Thread(target=fail)
    thread.start()
    failure = _lead(tmp_path, lead)
    thread.join()
    assert ("of the first" if own_is_first else "of another") in str(failure)


@pytest.mark.parametrize("skew_s", [-600.0, 600.0])
def test_machines_with_other_clocks_meet_and_the_log_has_the_time_of_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, skew_s: float
) -> None:
    monkeypatch.setattr(nodes, "time", _Clocks(skew_s))

    def work() -> None:
        with join(SECOND, tmp_path, SETTINGS, "") as first:
            record = logging.LogRecord("cotpress.test", logging.WARNING, "", 1, "of another", None, None)
            record.created = nodes.time.time()
            first.send(nodes.Message(record))
            first.receive()

    def lead() -> list[logging.LogRecord]:
        path, records = nodes._file(tmp_path, FIRST), list[logging.LogRecord]()
        assert not path.exists()
        (node,) = others()
        assert isinstance(node, nodes.OtherNode)
        node.outcome = None
        wait_until(lambda: node.drain(records.append) or records, 60, "the record of the other machine")
        return records

    nodes._write(nodes._file(tmp_path, FIRST), {"addresses": [], "port": 1, "key": ""})  # of a killed command
    os.utime(nodes._file(tmp_path, FIRST), (time.time() + skew_s,) * 2)
    thread = threading.Thread(target=work)
    thread.start()
    (record,) = _lead(tmp_path, lead)
    thread.join()
    assert abs(record.created - time.time()) < 60
    assert record.msecs == pytest.approx(record.created % 1 * 1000)


@pytest.mark.parametrize("address", ["node1", "node1:", ":29400", "node1:0", "node1:70000", "node1:port"])
def test_rendezvous_is_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.rendezvous: got .*allowed: HOST:PORT"):
        check_settings(TrainerConfig(num_nodes=2, rendezvous=address), "trainer")
    with pytest.raises(ConfigError, match=r"trainer\.rendezvous: got 'a:1' with trainer\.num_nodes=1"):
        check_settings(TrainerConfig(rendezvous="a:1"), "trainer")


@pytest.mark.parametrize("rank", ["", "node0", "2", "-1"])
def test_node_rank_that_is_no_number_of_a_machine_is_refused(rank: str) -> None:
    with pytest.raises(ConfigError, match=rf"NODE_RANK: got '{rank}', allowed: 0 to 1, or no NODE_RANK"):
        find_meeting(TrainerConfig(num_nodes=2, rendezvous="node1:29400"), {"NODE_RANK": rank})


def test_without_numbers_the_first_machine_is_who_gets_the_port() -> None:
    meeting = Meeting(name="x", number=None, address=("127.0.1.1", _free()))
    port = _open(meeting)
    assert port.listener.getsockname()[0] == "0.0.0.0"
    assert open_port(meeting) == f"cannot listen on port {_number(port)}: Address already in use"
    with pytest.raises(
        ConfigError, match=r"trainer\.rendezvous: cannot listen on port \d+: Address already in use\. Fix"
    ):
        open_port(replace(meeting, number=0))
    port.listener.close()
    elsewhere = replace(meeting, address=("192.0.2.77", _free()))
    assert open_port(elsewhere) == "'192.0.2.77' is another machine"
    _open(replace(elsewhere, number=0)).listener.close()  # NODE_RANK=0 behind NAT
    assert "'[::1]' is no IPv4 address and no name" in str(open_port(replace(meeting, address=("[::1]", 29400))))


@pytest.mark.parametrize("sent", [None, b"", b"GET / HTTP/1.0\r\n\r\n", "reset"])
def test_connections_of_others_do_not_keep_a_machine_from_joining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sent: bytes | str | None
) -> None:
    """One that says nothing, one that is closed, one with another protocol, one that is reset."""
    monkeypatch.setattr(nodes, "ANSWER_S", 0.3)
    port = _open()
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        stray = socket.create_connection(("127.0.0.1", _number(port)))
        if sent == "reset":
            stray.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif isinstance(sent, bytes):
            stray.sendall(sent)
        if sent is not None:
            stray.close()
        got = _other(tmp_path)
        node, connection = arrivals.get(timeout=20)
        connection.close()
        refused = "no machine of this command, was refused"
        wait_until(lambda: refused in caplog.text, 10, f"{refused}, also where it stays open")
        stray.close()
    got["thread"].join()
    assert node.number == 1


def test_silent_connections_are_dealt_with_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "ANSWER_S", 40.0)
    port = _open()
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        strays = [socket.create_connection(("127.0.0.1", _number(port))) for _ in range(3)]
        got = _other(tmp_path)
        node, connection = arrivals.get(timeout=30)
        connection.close()
        for stray in strays:
            stray.close()
    got["thread"].join()
    assert node.number == 1


def test_key_of_an_earlier_command_is_tried_until_there_is_that_of_this_one(tmp_path: Path) -> None:
    port, path = _open(), nodes._file(tmp_path, FIRST)
    with nodes._listening(port, FIRST, tmp_path) as arrivals:
        own = json.loads(path.read_text())
        nodes._write(path, {**own, "key": "00" * 32})
        got = _other(tmp_path)
        with pytest.raises(queue.Empty):
            arrivals.get(timeout=1)
        assert got["thread"].is_alive()
        nodes._write(path, own)
        _, connection = arrivals.get(timeout=20)
        connection.close()
    got["thread"].join()


def test_machine_that_joined_is_waited_for_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "ANSWER_S", 0.3)
    got = _other(tmp_path)
    assert _lead(tmp_path, lambda: time.sleep(1)) is None
    got["thread"].join()
    assert got.get("error") is None


def test_after_the_meeting_the_port_is_free(tmp_path: Path) -> None:
    port = _open()
    number = _number(port)
    with nodes._listening(port, FIRST, tmp_path):
        pass
    _open(replace(FIRST, address=("127.0.0.1", number))).listener.close()


@pytest.mark.parametrize("full", [False, True])
def test_first_machine_that_does_not_answer_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """A port that accepts and says nothing, and one whose queue is full, so that packets are dropped."""
    monkeypatch.setattr(nodes, "JOIN_S", 0.5)
    monkeypatch.setattr(nodes, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0 if full else 5) as silent:
        waiting = [socket.socket() for _ in range(4 if full else 0)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(silent.getsockname())
        nodes._write(
            nodes._file(tmp_path, SECOND),
            {"addresses": ["127.0.0.1"], "port": silent.getsockname()[1], "key": "00" * 32},
        )
        started = time.monotonic()
        with pytest.raises(nodes.NotJoinedError, match=r"127\.0\.0\.1:\d+ does not answer: nothing within 0\.3 s"):
            join(SECOND, tmp_path, SETTINGS, "")
        for sock in waiting:
            sock.close()
    assert time.monotonic() - started < 5


def test_message_of_a_machine_that_found_no_first_one_has_every_address_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "JOIN_S", 0.3)
    path = nodes._file(tmp_path, SECOND)
    nodes._write(path, {"addresses": ["127.0.0.2", "127.0.0.1"], "port": 1, "key": "00" * 32})
    refused = r"127.0.0.2:1 does not answer: .*refused; 127.0.0.1:1 does not answer: .*refused. It is not the first one"
    with pytest.raises(WorkerError, match=refused + " itself: cannot listen"):
        join(SECOND, tmp_path, SETTINGS, "cannot listen")
    path.unlink()
    path.mkdir()  # root may read any file
    with pytest.raises(WorkerError, match=r"its file cannot be read: .*Is a directory"):
        join(SECOND, tmp_path, SETTINGS, "")


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
