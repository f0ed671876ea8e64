"""The helper with which tests wait for other processes (support.waiting)."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

from support.waiting import announce, wait_until, wait_until_gone


def test_first_true_value_is_returned() -> None:
    values = iter([0, "", None, 7, 8])
    assert wait_until(lambda: next(values), 5, "a value", every_s=0.0) == 7


def test_end_of_the_time_is_a_failure_that_names_what_was_awaited() -> None:
    with pytest.raises(AssertionError, match=r"this did not come within 0\.05 s: a checkpoint"):
        wait_until(lambda: False, 0.05, "a checkpoint")


def test_end_of_the_process_is_a_failure_before_the_time_is_over() -> None:
    began = time.monotonic()
    job, message = (
        subprocess.Popen(["sh", "-c", "exit 3"]),
        "the process ended with exit code 3 before this came: a file",
    )
    with pytest.raises(AssertionError, match=message):
        wait_until(lambda: False, 100, "a file", job=job)
    assert time.monotonic() - began < 50


def test_process_that_goes_on_is_named() -> None:
    with subprocess.Popen(["sleep", "60"]) as job:
        with pytest.raises(AssertionError, match=rf"the end of the processes \[{job.pid}\]"):
            wait_until_gone([job.pid], 0.05)
        job.kill()
        wait_until_gone([job.pid])


def test_announced_file_never_exists_without_its_text(tmp_path: Path) -> None:
    text, ended, seen = "x" * 10**6, threading.Event(), set[int]()

    def look() -> None:
        while not ended.is_set():
            seen.update(len(path.read_text()) for path in tmp_path.glob("[!.]*"))

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(20):
        announce(tmp_path / str(number), text)
    wait_until(lambda: seen, 20, "a look at a file")
    ended.set()
    looking.join()
    assert seen == {len(text)}
