"""Messages name commands in the form in which they are typed."""

import os
import subprocess
import sys

import pytest

from cotpress.invocation import VARIABLE, Form, as_typed, current_form, program, remember


@pytest.mark.parametrize(
    ("form", "typed", "named"),
    [
        (Form.script, ["python train.py", "python -m cotpress.hub"], ["train.py", "cotpress.hub"]),
        (Form.console, ["cotpress train", "cotpress hub"], ["cotpress train", "cotpress hub"]),
        (Form.module, ["python -m cotpress train", "python -m cotpress hub"], ["cotpress train", "cotpress hub"]),
    ],
)
def test_commands_are_named_as_they_are_typed(form: Form, typed: list[str], named: list[str]) -> None:
    remember(form)
    assert [as_typed("train"), as_typed("hub")] == typed
    assert [program("train"), program("hub")] == named


def test_without_a_command_the_form_is_that_of_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_form() is Form.console
    monkeypatch.setenv(VARIABLE, "unknown")
    assert current_form() is Form.console


def test_processes_of_a_command_know_its_form() -> None:
    remember(Form.module)
    code = "from cotpress.invocation import as_typed; print(as_typed('train'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stdout == "python -m cotpress train\n"
