"""Child processes: messages, output, failures, and how they are stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotpress.devices import processes
from cotpress.devices.processes import Child, explain_exit, follow, stop
from cotpress.errors import DataError
from support import child_jobs


def _run(kind: str, tmp_path: Path, **more: object) -> Child:
    child = Child(child_jobs.run, (kind, tmp_path), output=tmp_path / "log", **more)  # type: ignore[arg-type]
    follow([child])
    stop([child])
    return child


@pytest.mark.parametrize("preload", [None, ["support.child_jobs"]], ids=["spawn", "forkserver"])
def test_result_environment_and_output_of_a_child(preload: list[str] | None, tmp_path: Path) -> None:
    child = _run("value", tmp_path, preload=preload, environment={**os.environ, "COTPRESS_TEST": "x"})
    assert child.outcome is not None
    assert child.outcome.value == ("x", child.pid)
    assert child.outcome.error is None
    assert (tmp_path / "log").read_text() == "out\nerr\nof C code\n"


@pytest.mark.parametrize(
    ("kind", "error", "error_kind", "trace"),
    [
        ("for users", "row 3 is empty", DataError, True),
        ("defect", "ZeroDivisionError: by nothing", None, True),
        ("killed", "killed by SIGKILL: out of memory, or somebody's kill -9", None, False),
        ("exit", "the process ended with exit code 3", None, False),
    ],
)
def test_failure_of_a_child_is_explained(
    kind: str, error: str, error_kind: type[Exception] | None, trace: bool, tmp_path: Path
) -> None:
    outcome = _run(kind, tmp_path).outcome
    assert outcome is not None
    assert (outcome.error, outcome.kind, "in run" in outcome.trace) == (error, error_kind, trace)


def test_child_that_is_stopped_ends_orderly_and_ignores_ctrl_c(tmp_path: Path) -> None:
    child = Child(child_jobs.run, ("waits", tmp_path))
    assert child.receive(60) == "ready"
    os.kill(child.pid, signal.SIGINT)
    time.sleep(0.2)
    assert child.exit_code is None
    stop([child])
    assert child.exit_code == -signal.SIGTERM
    assert (tmp_path / "interrupted").exists()


def test_ctrl_c_at_the_start_of_a_child_leaves_no_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    child = Child(child_jobs.run, ("echo", tmp_path), daemon=True)
    os.kill(child.pid, signal.SIGINT)  # the new interpreter is still importing
    child.send("a")
    assert child.receive(60) == "aa"
    child.end(0.0)
    assert capfd.readouterr().err == ""


def test_sigterm_in_the_first_moments_of_a_forked_child_ends_it() -> None:
    child = Child(child_jobs.run, ("waits", child_jobs.SlowToLoad()), preload=["support.child_jobs"], daemon=True)
    child.terminate()
    assert child.receive(30) is None
    child.end(10.0)
    assert child.exit_code == -signal.SIGTERM


def test_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    child = Child(child_jobs.run, ("stubborn", tmp_path))
    assert child.receive(60) == "ready"
    stop([child], timeout_s=0.5)
    assert child.exit_code == -signal.SIGKILL


def test_messages_go_both_ways_and_none_comes_from_a_child_that_has_ended(tmp_path: Path) -> None:
    child = Child(child_jobs.run, ("echo", tmp_path), daemon=True)
    child.send("a")
    assert child.receive(60) == "aa"
    assert child.receive(0.1) is None
    os.kill(child.pid, signal.SIGKILL)
    assert child.receive(10) is None
    child.end(0.0)


def test_script_without_a_guard_can_check_answers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from cotpress.answers import judge\n"
        "print(judge('\\\\boxed{\\\\frac{2}{4}}', '\\\\frac{1}{2}').correct, judge('\\\\boxed{x+1}', 'x+2').correct)\n"
        "import __main__\n"
        "print(__main__.__file__)\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout == f"True False\n{script}\n", run.stderr


def test_exit_codes_are_explained() -> None:
    assert explain_exit(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert explain_exit(2) == "the process ended with exit code 2"


def test_only_children_talk_to_a_parent() -> None:
    with pytest.raises(AssertionError, match="not started by Child"):
        processes.send("x")


@pytest.mark.parametrize("preload", [None, ["support.child_jobs"]], ids=["spawn", "forkserver"])
def test_long_tmpdir_is_no_error_of_a_socket(preload: list[str] | None, tmp_path: Path) -> None:
    """In a process of its own, as the folder of the sockets is made once per process."""
    folder = tmp_path / ("x" * 120) / ("y" * 120)
    folder.mkdir(parents=True)
    code = (
        "from pathlib import Path\n"
        "from cotpress.devices.processes import Child, follow, stop\n"
        "from support import child_jobs\n"
        f"child = Child(child_jobs.run, ('value', Path({str(tmp_path)!r})), preload={preload!r})\n"
        "follow([child]); stop([child])\n"
        "assert child.outcome.error is None, child.outcome.error\n"
    )
    environment = {**os.environ, "COTPRESS_TEST": "x", "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
