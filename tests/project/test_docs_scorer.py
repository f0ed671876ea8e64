"""The steps of docs/adding-a-scorer.md give a scorer: a module of its own, and inside a copy of the repository."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import ROOT, environment

PAGE = ROOT / "docs/adding-a-scorer.md"
BLOCK = re.compile(r"^```(python|yaml|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


OUTSIDE = "# outside: "


def apply(kind: str, text: str, root: Path) -> None:
    """Write a block that names its file, or change the lines that a diff block shows."""
    first, _, rest = text.partition("\n")
    if kind != "diff":
        path = root / first.removeprefix("# file: ")
        assert not path.exists(), f"{path} is there already"
        path.write_text(rest, encoding="utf-8")
        return
    path = root / first.removeprefix("--- ")
    lines = rest.splitlines()
    assert {line[:1] for line in lines} <= {" ", "+", ""}, "a diff block only adds"
    old = "".join(f"{line[1:]}\n" for line in lines if line.startswith(" "))
    new = "".join(f"{line[1:]}\n" for line in lines)
    whole = "\n" + path.read_text(encoding="utf-8")
    assert whole.count("\n" + old) == 1, f"{path.name} does not hold these lines once:\n{old}"
    path.write_text(whole.replace("\n" + old, "\n" + new)[1:], encoding="utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for name in ("src", "conf", "tests", "sweeps"):
        shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "compress.py"):
        shutil.copy(ROOT / name, root / name)
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if not text.startswith(OUTSIDE):
            apply(kind, text, root)
    return root


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A working directory with the modules of one's own."""
    texts = [t for _, t in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if t.startswith(OUTSIDE)]
    assert len(texts) == 2
    for text in texts:
        first, _, rest = text.partition("\n")
        (tmp_path / first.removeprefix(OUTSIDE)).write_text(rest, encoding="utf-8")
    return tmp_path


def _in(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, capture_output=True, text=True, timeout=280,
        env={**environment(), "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _beside(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**environment(), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_module_beside_the_working_directory_adds_a_choice_with_help(beside: Path) -> None:
    shown = _beside(beside, str(ROOT / "compress.py"), "plugins=[my_scorers]", "--help", "scorer")
    assert re.search(r"excess_surprise +Surprise beyond its expectation", shown)
    chosen = ("+plugins=[my_scorers]", "scorer=excess_surprise", "--cfg", "job", "--package", "scorer")
    assert "name: excess_surprise" in _beside(beside, str(ROOT / "compress.py"), *chosen)


def test_a_scorer_of_the_tokens_alone_has_settings_of_its_own(beside: Path) -> None:
    command = [str(ROOT / "compress.py"), "plugins=[my_lengths]", "scorer=length", "scorer.power=2", "model=tiny"]
    assert "power: 2.0" in _beside(beside, *command, "--cfg", "job", "--package", "scorer")
    small = ["reference=none", "tracker=none", "data.num_traces=4", "ratio=0.5", "output=out"]
    assert "asked ratio 0.5" in _beside(beside, *command, *small)


def test_a_wrong_module_name_is_one_message(beside: Path) -> None:
    command = [sys.executable, str(ROOT / "compress.py"), "plugins=[my_scorer]", "--cfg", "job"]
    done = subprocess.run(command, cwd=beside, capture_output=True, text=True, timeout=60, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert "plugins: module 'my_scorer' cannot be imported: ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_module_of_ones_own_scores_in_jobs_and_on_two_devices(beside: Path) -> None:
    common = ["model=tiny", "data.num_traces=8", "reference=none", "tracker=none", "plugins=[my_scorers]"]
    jobs = ["-m", "scorer=excess_surprise,random", "ratio=0.5", "output=out", "output_root=jobs", *common]
    _beside(beside, str(ROOT / "compress.py"), *jobs)
    assert len(list((beside / "jobs/artifacts/score").iterdir())) == 2
    devices = ["scorer=excess_surprise", "trainer=cpu", "trainer.devices=2", "output_root=devices", *common]
    assert "asked ratio" in _beside(beside, str(ROOT / "compress.py"), "ratio=0.5", *devices)


def test_the_new_scorer_composes_and_is_well_formed(copy: Path) -> None:
    shown = _in(copy, "compress.py", "scorer=excess_surprise", "--cfg", "job", "--package", "scorer")
    assert "name: excess_surprise" in shown
    _in(copy, "-m", "ruff", "check", "src", "tests/unit/scoring")
    _in(copy, "-m", "ruff", "format", "--check", "src", "tests/unit/scoring")


@pytest.mark.slow
def test_the_new_scorer_passes_the_conformance_test_and_its_own(copy: Path) -> None:
    """Half of its time is the start of Python, torch and pytest."""
    _in(copy, "-m", "pytest", "-q", "-k", "excess_surprise", "tests/unit/scoring")


@pytest.mark.slow
def test_the_new_scorer_compresses(copy: Path, tmp_path: Path) -> None:
    common = ["model=tiny", "data.num_traces=8", "reference=none", f"output_root={tmp_path}"]
    out = _in(copy, "compress.py", "scorer=excess_surprise", "ratio=0.5", *common, f"output={tmp_path / 'out'}")
    assert "asked ratio 0.5" in out
