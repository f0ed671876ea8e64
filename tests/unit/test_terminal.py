"""Texts of strangers do not steer a terminal, and a reader that has gone away stops no work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

from cotpress.terminal import Output, escaped, one_line, wrapped
from fuzz.cases import any_text, cases
from support.commands import ROOT

STEERING = [
    "\x1b[31m", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x9b2J", "\x90q\x9c", "\r", "\b\b", "\x7f", "\0", "\x0c",
    "\x85", "\u202e", "\u2066", "\u2069", "\u200e", "\u061c", "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad",
    "\u2028", "\u2029", "\u180e", "\u3164", "\U000e0041", "\udc80",
]  # fmt: skip


@pytest.mark.parametrize("text", STEERING)
def test_control_and_invisible_characters_are_shown_by_their_number(text: str) -> None:
    shown = escaped(f"a{text}b\tc\nd")
    assert shown.isascii()
    assert shown.replace("\n", "").replace("\t", "").isprintable()
    assert f"{ord(text[0]):x}" in shown
    assert shown.startswith("a\\")
    assert shown.endswith("b\tc\nd")


@cases(100)
@given(any_text)
def test_a_cell_is_one_printable_line(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert not any(c in shown for c in "\x1b\x9b\r\n\t\u202e\u200b")
    shown.encode()


def test_ordinary_text_stays() -> None:
    text = "Ratio 0.7, größer, 数学, ∑ ≤ π, \U0001f642, e\u0301, السلام"
    assert one_line(text) == text


def run(code: str, **streams: object) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, **streams)  # type: ignore[call-overload,no-any-return]


LONG = (
    "import sys; from cotpress.cli.app import end_with_code\n"
    "def work():\n"
    "    for _ in range(20000): print('a line of a table')\n"
    "    open('done', 'w').close()\n"
    "end_with_code(work)"
)
"""A command that writes more than a pipe holds, and then finishes its work."""


@pytest.mark.parametrize("code", [LONG, LONG.replace("print('a", "print(file=sys.stderr, end='') or print('a")])
def test_a_reader_that_has_gone_ends_the_command_quietly_after_its_work(code: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(code, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    assert (tmp_path / "done").exists()


def test_a_bar_is_shown_also_to_a_reader_that_has_gone(tmp_path: Path) -> None:
    code = (
        "import sys; from cotpress.cli.app import end_with_code; from cotpress import progress\n"
        "def work():\n"
        "    type(sys.stderr).isatty = lambda self: True\n"
        "    with progress.Progress('work', 3, 'rows') as bar:\n"
        "        for _ in range(3): bar.advance(1)\n"
        "    print('table')\n"
        "    open('done', 'w').close()\n"
        "end_with_code(work)"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = run(code, stdout=writing, stderr=writing, cwd=tmp_path)
    os.close(writing)
    assert done.returncode == 141
    assert (tmp_path / "done").exists()


def test_a_closed_standard_output_is_no_number_of_another_file(tmp_path: Path) -> None:
    code = LONG.replace("open('done', 'w').close()", "open('done', 'w').write('whole')")
    done = subprocess.run(
        ["/bin/sh", "-c", f'{sys.executable} -c "$0" >&-', code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, b"")
    assert (tmp_path / "done").read_text() == "whole"


def test_a_full_disk_under_standard_output_is_one_message(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(LONG, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"\nerror: standard output cannot be written: No space left on device\n"
    assert (tmp_path / "done").exists()


def test_an_open_output_is_written_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(sys.stdout)
    output.write("text\n")
    output.flush()
    assert capsys.readouterr().out == "text\n"
    assert not output.is_unread
    assert not output.problem


@pytest.mark.parametrize(("columns", "printed"), [({}, "None"), ({"COLUMNS": "77"}, "77"), ({"COLUMNS": "x"}, "None")])
def test_width_is_that_of_columns_and_unknown_in_a_pipe(columns: dict[str, str], printed: str) -> None:
    program = "from cotpress.terminal import line_width; print(line_width())"
    env = {**{k: v for k, v in os.environ.items() if k != "COLUMNS"}, **columns}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == printed


def test_long_text_is_broken_at_spaces_with_a_deeper_indent() -> None:
    text = "generated tokens never fall as the asked ratio rises: cts compression.granularity=paragraph"
    lines = wrapped(text, 40, "  ")
    assert lines == [
        "  generated tokens never fall as the", "    asked ratio rises: cts", "    compression.granularity=paragraph",
    ]  # fmt: skip
    assert wrapped(text, None, "  ") == [f"  {text}"]
