"""`cotpress COMMAND`: the list of commands, the work of each, and the configuration of the package."""

import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from cotpress import __main__ as console
from cotpress.cli.help import LINE
from cotpress.invocation import Form, current_form
from cotpress.tasks import EVALUATE, TRAIN
from support.commands import ROOT, Command

Run = Callable[..., None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the console command with arguments."""

    def called(*arguments: str, program: str = "/venv/bin/cotpress") -> None:
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        console.main()

    return called


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Task, form and arguments of each command that would run."""
    made: list[Any] = []
    monkeypatch.setattr(
        console, "run_task", lambda task, conf, form: made.append((task, conf.resolve(), form, sys.argv[1:]))
    )
    return made


def test_configuration_and_sweeps_are_found_in_the_package() -> None:
    conf = resources.files("cotpress") / "conf"
    assert (conf / "train.yaml").is_file()
    assert (conf / "sweep" / "scorers.yaml").is_file()
    assert (conf / "sweep" / "wandb" / "grid.yaml").is_file()
    assert Path(str(conf)) == console.CONF
    assert console.CONF.resolve() == ROOT / "conf", "in a checkout the top-level folder is the source"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_every_command_has_a_line(arguments: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(*arguments)
    lines = capsys.readouterr().out.splitlines()
    names = ["train", "compress", "evaluate", "fidelity", "report", "plan", "dashboard", "hub"]
    assert [line.split()[0] for line in lines if line.startswith("  ")] == names
    assert "Commands (cotpress COMMAND --help explains one):" in lines
    assert any(line.endswith(str(ROOT / "conf")) for line in lines)
    assert 'Tab completion: eval "$(cotpress -sc install=bash)", for zsh the same with zsh; fish:' in lines
    assert max(len(line) for line in lines if str(ROOT) not in line) <= LINE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "scorer=cts"], "unknown command 'trian'. Did you mean 'train'? Allowed: compress, dashboard, "),
        (["scorer=cts"], "'scorer=cts' is no command. Fix: cotpress COMMAND scorer=cts; cotpress --help lists"),
        (["-m", "train"], "'-m' is no command. Fix: cotpress COMMAND -m; "),
        (
            ["-sc", "install=tcsh"],
            'allowed: install=SHELL with SHELL one of bash, zsh, fish. Fix: eval "$(cotpress -sc',
        ),
    ],
)
def test_unknown_command_is_refused_in_one_line(
    arguments: list[str], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_commands_are_the_tasks_of_the_scripts_with_their_arguments(run: Run, calls: list[Any]) -> None:
    run("train", "-m", "ratio=0.5,0.7")
    run("evaluate", "n=2", program="/package/cotpress/__main__.py")
    assert calls == [
        (TRAIN, ROOT / "conf", Form.console, ["-m", "ratio=0.5,0.7"]),
        (EVALUATE, ROOT / "conf", Form.module, ["n=2"]),
    ]


@pytest.mark.parametrize("arguments", [["ratio=0.5"], ["--help", "scorer"], ["--cfg", "job"]])
def test_plan_is_train_with_plan_true(arguments: list[str], run: Run, calls: list[Any]) -> None:
    run("plan", *arguments)
    assert calls == [(TRAIN, ROOT / "conf", Form.console, ["plan=true", *arguments])]


@pytest.mark.parametrize("name", ["hub", "dashboard"])
def test_commands_without_a_script_have_a_page(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(name, "--help")
    shown = capsys.readouterr().out
    assert shown.startswith(f"cotpress {name} - ")
    assert "python" not in shown
    assert current_form() is Form.console


def test_page_of_a_command_names_it_as_it_is_typed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("fidelity", "--help")
    shown = capsys.readouterr().out
    assert shown.startswith("cotpress fidelity - ")
    assert "  cotpress fidelity scorer=cts truth=planted\n" in shown
    assert ".py" not in shown


def test_own_configuration_and_experiment_are_found_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("# @package _global_\nratio: 0.3\n")
    done = Command(tmp_path).module("cotpress", "compress", "--config-dir=mine", "experiment=own", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "\nratio: 0.3\n" in done.stdout
    refused = Command(tmp_path).module("cotpress", "compress", "--config-dir=mine", "experiment=owm")
    assert refused.returncode == 2
    assert "experiment: unknown choice 'owm'. Did you mean 'own'?" in refused.stderr


def test_version_is_that_of_the_package(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("--version")
    assert capsys.readouterr().out == f"cotpress {console.__version__}\n"
