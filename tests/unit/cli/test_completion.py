"""Tab completion offers what the command line accepts, in the form of each shell."""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from cotpress.__main__ import main
from cotpress.cli.completion import candidates, shell_completion
from cotpress.errors import ConfigError
from cotpress.invocation import Form, remember
from support.commands import ROOT, environment

CONF = ROOT / "conf"


def words(line: str, entry: str = "train") -> list[str]:
    return [c.word for c in candidates(entry, CONF, line)]


def completed(request: str, line: str = "", point: int | None = None) -> str:
    variables = {"COMP_LINE": line, "COMP_POINT": str(len(line) if point is None else point)}
    return shell_completion("cotpress train", partial(candidates, "train", CONF), ["-sc", request], variables)


@pytest.mark.parametrize("typed", ["scorer=", "-m ratio=0.5 scorer=", "+scorer@scorer.parts.new="])
def test_values_of_a_group_are_its_files_without_schemas(typed: str) -> None:
    start = typed.rpartition(" ")[2]
    files = sorted(f.stem for f in (CONF / "scorer").glob("*.yaml"))
    assert words(f"python train.py {typed}") == [start + name for name in files]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("sco", ["scorer=", "scorer."]),
        ("model@", ["model@reference.base="]),
        ("tune@", ["tune@reference.tune=", "tune@sft.tune="]),
        ("model@reference.base=r1-q", [f"model@reference.base=r1-qwen{size}b" for size in ("1.5", "14", "7")]),
        ("scorer=cts,ra", ["scorer=cts,random"]),
        ("scorer.cond", ["scorer.condition="]),
        ("scorer.condition=q", ["scorer.condition=question", "scorer.condition=question_answer"]),
        ("data.strict=", ["data.strict=true", "data.strict=false"]),
        ("scorer=mix scorer.parts.", ["scorer.parts.cts.", "scorer.parts.reference_likelihood."]),
        ("scorer=tokenskip,random scorer.train=", ["scorer.train=true", "scorer.train=false"]),
        ("scorer=typo rat", ["ratio="]),
        ("experiment=cts_long_cot scorer.cond", ["scorer.condition="]),
        ("data=self_written questions@", ["questions@data.questions="]),
        ("data=jsonl data.path=", []),
        ("--mul", ["--multirun"]),
        ("--cfg ", ["job", "hydra", "all"]),
        ("--help sc", ["scorer"]),
        ("truth=", []),
    ],
)
def test_completions_of_a_line(typed: str, expected: list[str]) -> None:
    assert words(f"python train.py {typed}") == expected


def test_completion_knows_the_part_of_an_experiment_that_a_script_has() -> None:
    assert words("python compress.py experiment=tokenskip_gsm8k data.questions.", "compress")
    assert words("python compress.py experiment=", "compress") == words("python train.py experiment=")


def test_empty_word_offers_every_group_and_key_of_the_script() -> None:
    offered = words("python evaluate.py ", "evaluate")
    assert {"model=", "benchmark=", "generation@evaluation.generation=", "adapter=", "ratio="} <= set(offered)
    assert not {"scorer=", "hydra="} & set(offered)
    assert len(offered) == len(set(offered))


@pytest.mark.parametrize("entry", ["train", "report"])
def test_every_offered_group_has_choices(entry: str) -> None:
    groups = [w for w in words(f"python {entry}.py ", entry) if w.endswith("=") and (CONF / w[:-1]).is_dir()]
    assert bool(groups) == (entry != "report")
    for group in groups:
        assert words(f"python {entry}.py {group}", entry)


def test_text_after_the_cursor_is_ignored() -> None:
    line = "python train.py scorer= ratio=0.5"
    output = completed("query=bash", line, line.index(" ratio")).split()
    assert "scorer=cts" in output
    assert all(w.startswith("scorer=") for w in output)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_zsh_and_fish_get_meanings(shell: str) -> None:
    output = completed(f"query={shell}", "python train.py reference=no")
    assert output == "reference=none\tNo reference model: the base model scores\n"


@pytest.mark.parametrize("argument", ["install=tcsh", "install", "query=", "remove=bash"])
def test_unknown_shell_or_action_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: install=SHELL with SHELL one of bash, zsh, fish"):
        completed(argument)


@pytest.mark.parametrize(
    ("form", "line", "expected"),
    [
        (Form.script, "python train.py sc", ["scorer=", "scorer."]),
        (Form.console, "cotpress train sc", ["scorer=", "scorer."]),
        (Form.module, "python -m cotpress train sc", ["scorer=", "scorer."]),
        (Form.module, "python -m cotpress train experiment=cts_long_cot scorer.cond", ["scorer.condition="]),
    ],
)
def test_words_of_the_command_are_no_settings(form: Form, line: str, expected: list[str]) -> None:
    remember(form)
    assert words(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cotpress ", ["train", "compress", "evaluate", "fidelity", "report", "plan", "dashboard", "hub"]),
        ("cotpress re", ["report"]),
        ("cotpress --v", ["--version"]),
        ("cotpress nothing re", []),
        ("cotpress compress expor", ["export="]),
        ("cotpress plan scorer=cts trainer=g", ["trainer=gpu"]),
        ("cotpress hub run=DIR me", ["merge="]),
        ("cotpress hub merge=", ["merge=true", "merge=false"]),
        ("cotpress dashboard sc", ["scorers="]),
    ],
)
def test_commands_and_their_settings_are_completed(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bin/cotpress", "-sc", "query=bash"])
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    main()
    assert capsys.readouterr().out.split() == expected


ASK = """
eval "$(python -m cotpress -sc install=bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=($1) COMP_WORDBREAKS="$2"
_cotpress
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
@pytest.mark.parametrize(
    ("line", "breaks", "expected"),
    [
        ("python train.py scorer=tokenskip_", " =:@", ["tokenskip_mbert", "tokenskip_xlmr"]),
        ("python train.py model@reference.base=smo", " ", ["model@reference.base=smollm2"]),
        ("python train.py model@ref", " =:@", ["@reference.base="]),  # readline takes @ for the word's beginning
        ("python Makefile sco", " =:@", [""]),
        ("python -m json.tool sco", " =:@", [""]),
        ("python -m cotpress train scorer=tokenskip_", " =:@", ["tokenskip_mbert", "tokenskip_xlmr"]),
        ("python -m cotpress fid", " =:@", ["fidelity"]),
    ],
)
def test_bash_gets_the_part_that_readline_replaces(line: str, breaks: str, expected: list[str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "ask", line, breaks],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={**environment(), "PATH": path},
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == expected, done.stderr
