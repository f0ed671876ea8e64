"""docs/architecture.md names the files, folders and layers that the code has."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.commands import ROOT, SMALL, environment

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "src/cotpress"
WALKS = [part.strip() for part in PAGE.split("\n## ")[2].split("\n\n") if part.startswith("| | file")]
STEP = re.compile(r"^\| \d \| \[`[^`]+`\]\(\.\./([^)]+)\) \| `(\w+)", re.MULTILINE)

FILES_AT_THE_FORWARD = """
import json, runpy, sys, traceback
from pathlib import Path
from transformers.models.llama.modeling_llama import LlamaModel

root, place = Path(sys.argv[1]), Path(sys.argv[2])
forward = LlamaModel.forward

def watched(*args, **inputs):
    files = [Path(f.filename) for f in traceback.extract_stack()]
    own = {str(f.relative_to(root)) for f in files if f.is_relative_to(root) and ".venv" not in f.parts}
    if "src/cotpress/scoring/reader.py" in own:
        (place / "files.json").write_text(json.dumps(sorted(own)))
    return forward(*args, **inputs)

LlamaModel.forward = watched
sys.argv = ["train.py", *sys.argv[3:]]
runpy.run_path(str(root / "train.py"), run_name="__main__")
"""


def test_the_page_walks_to_the_forward_and_to_the_table_in_at_most_eight_files_each() -> None:
    assert len(WALKS) == 2
    assert all(1 < len(STEP.findall(walk)) == walk.count("\n") - 1 <= 8 for walk in WALKS)


@pytest.mark.parametrize(("file", "name"), [step for walk in WALKS for step in STEP.findall(walk)])
def test_every_step_of_a_walk_names_a_function_of_its_file(file: str, name: str) -> None:
    assert re.search(rf"^\s*(def )?{name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_folder_of_the_package_is_in_the_map() -> None:
    rows = re.findall(r"^\| (`\w+/`(?:, `\w+/`)*) \|", PAGE.split("\n## ")[3], re.MULTILINE)
    named = sorted(name for row in rows for name in re.findall(r"`(\w+)/`", row))
    assert named == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_layers_are_those_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert shown.splitlines() == [layer.replace("cotpress.", "") for layer in contract["layers"]]


@pytest.mark.slow
def test_the_first_walk_is_every_file_between_the_command_line_and_the_forward(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILES_AT_THE_FORWARD, str(ROOT), str(tmp_path), "scorer=cts", "ratio=0.7",
         "reference=none", "evaluation.baselines=[]", *SMALL],
        capture_output=True, text=True, timeout=240, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "files.json").read_text()) == sorted(file for file, _ in STEP.findall(WALKS[0]))
