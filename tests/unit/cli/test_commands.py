import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING

from cotpress.cli.commands import parse, run_command
from cotpress.errors import ConfigError, HubError


@dataclass(kw_only=True, slots=True)
class Settings:
    run: str = MISSING
    dry_run: bool = False
    names: list[str] = field(default_factory=list)


def test_settings_are_read_as_assignments_or_flags() -> None:
    expected = Settings(run="a=b/c", dry_run=True, names=["x", "y"])
    assert parse(Settings, ["run=a=b/c", "dry_run=true", "names=[x,y]"]) == expected
    assert parse(Settings, ["--run=a=b/c", "--dry-run", "names=[x,y]"]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=a", "dryrun=true"], r"'dryrun' is no setting.*Did you mean 'dry_run'\? Allowed: dry_run, names, run"),
        (["runn=a", "dryrun=true"], r"^2 problems:\n1\. 'runn' .*Did you mean 'run'.*\n2\. 'dryrun' .*'dry_run'"),
        ([], "no value for run"),
        (["run=a", "dry_run=maybe"], "maybe"),
        (["run"], "allowed: key=value"),
    ],
)
def test_wrong_setting_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(Settings, arguments)


def test_errors_for_users_have_no_stack_trace_and_help_needs_no_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Settings) -> None:
        raise HubError("no token")

    monkeypatch.setattr(sys, "argv", ["x", "run=a"])
    with pytest.raises(SystemExit, match="1"):
        run_command("hub", Settings, refuse, "")
    assert capsys.readouterr().err == "\nerror: no token\n"
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    run_command("hub", Settings, refuse, "{command} run=DIR of {train}\n")
    assert capsys.readouterr().out == "cotpress hub run=DIR of cotpress train\n"


def _full(_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _refused(_: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/closed/dashboard.json")


@pytest.mark.parametrize(
    ("task", "text"), [(_full, "No space left"), (_refused, "'/closed/dashboard.json': Permission")]
)
def test_place_that_cannot_be_written_is_one_message(
    task: Callable[[object], None], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "run=x"])
    with pytest.raises(SystemExit, match="1"):
        run_command("hub", Settings, task, "")
    assert text in capsys.readouterr().err
