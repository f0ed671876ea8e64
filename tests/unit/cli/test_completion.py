"""Tab completion offers what the command line accepts, in the form of each shell."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cotpress.cli.completion import candidates, shell_completion
from cotpress.errors import ConfigError
from support.commands import ROOT, environment

CONF = ROOT / "conf"


def words(line: str, entry: str = "train") -> list[str]:
    return [c.word for c in candidates(entry, CONF, line)]


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
    variables = {"COMP_LINE": line, "COMP_POINT": str(line.index(" ratio"))}
    output = shell_completion("train", CONF, ["-sc", "query=bash"], variables).split()
    assert "scorer=cts" in output
    assert all(w.startswith("scorer=") for w in output)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_zsh_and_fish_get_meanings(shell: str) -> None:
    variables = {"COMP_LINE": "python train.py reference=no", "COMP_POINT": "28"}
    output = shell_completion("train", CONF, ["-sc", f"query={shell}"], variables)
    assert output == "reference=none\tNo reference model: the base model scores\n"


@pytest.mark.parametrize("argument", ["install=tcsh", "install", "query=", "remove=bash"])
def test_unknown_shell_or_action_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed: install=SHELL with SHELL one of bash, zsh, fish"):
        shell_completion("train", CONF, ["-sc", argument], {})


ASK = """
eval "$(python train.py -sc install=bash)"
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
    ],
)
def test_bash_gets_the_part_that_readline_replaces(line: str, breaks: str, expected: list[str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK, "ask", line, breaks],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={**environment(), "PATH": path},
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == expected, done.stderr
