"""`--help` names every group and choice, and explains them when asked."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotpress.cli.help import GROUPS, LINE, OWN, groups_of, help_page
from cotpress.config import SCHEMAS
from cotpress.errors import ConfigError
from support.commands import ROOT

CONF = ROOT / "conf"
ENTRIES = ["train", "compress", "evaluate", "fidelity", "report"]


def test_every_group_has_a_purpose() -> None:
    assert set(GROUPS) == {f.name for f in CONF.iterdir() if f.is_dir() and f.name != "hydra"}


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_group_is_a_line_then_its_choices_with_the_default_marked(entry: str) -> None:
    page = help_page(entry, CONF)
    lines = page.splitlines()
    assert max(map(len, lines)) <= LINE
    for group, default in groups_of(entry, CONF).items():
        assert len([line for line in lines if line.split()[:1] == [group] and line.endswith(GROUPS[group])]) == 1
        for file in (CONF / group).glob("*.yaml"):
            name = f"*{file.stem}" if file.stem == default else file.stem
            assert name in page.split()


def test_page_of_a_group_explains_every_choice() -> None:
    page = help_page("train", CONF, ["scorer=", "compression"])
    assert "  * cts                    Conditional Token Selection" in page
    assert "    random                 Uniform random scores" in page
    assert "    llmlingua_compat" in page
    assert "                      Goes with scorer=cts" in page  # more than the first comment line


def test_page_of_a_place_is_that_of_its_group() -> None:
    assert "qwen7b" in help_page("train", CONF, ["model@reference.base"])


def test_unknown_group_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown group 'scorrer'\. Did you mean 'scorer'"):
        help_page("train", CONF, ["scorrer"])


def test_help_is_fast_and_imports_no_configuration(tmp_path: Path) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['train.py', '--help']; runpy.run_path({str(ROOT / 'train.py')!r}, "
        "run_name='__main__'); assert not {'omegaconf', 'hydra', 'torch', 'yaml'} & set(sys.modules)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 3  # 0.15 s on an idle machine; tests may share theirs


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_page_lists_the_settings_of_its_script_and_no_others(entry: str) -> None:
    fields = {f.name for f in dataclasses.fields(SCHEMAS[f"{entry}_schema"])}
    assert set(OWN[entry]) == fields - set(groups_of(entry, CONF)) - {"labelled", "plan", "planning"}
    lines = help_page(entry, CONF).splitlines()
    shown = {line.split("=")[0].strip() for line in lines if line.startswith("  ") and line[2:].split("=")[0] in ALL}
    assert shown == set(OWN[entry])


ALL = {name for names in OWN.values() for name in names}
