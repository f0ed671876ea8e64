"""A whole run is repeated after an edit of the code, as whoever develops a scorer does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import ROOT, SMALL, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_edited_scorer_is_scored_again_and_nothing_before_it(tmp_path: Path) -> None:
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)

    def computed() -> list[str]:
        """Stages that a run computes, with the reason that the log gives."""
        command = [sys.executable, "train.py", "scorer=cts", "ratio=0.5", *SMALL]
        variables = {**environment(), "PYTHONPATH": str(tmp_path / "src")}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return re.findall(r"computing (\w+)/\w+(?:, as (\S+) changed)?", done.stderr)

    assert {stage for stage, _ in computed()} >= {"data", "reference", "read", "score", "sft", "answer"}
    assert computed() == []
    scorer = tmp_path / "src" / "cotpress" / "scoring" / "scorers" / "cts.py"
    text = scorer.read_text()
    scorer.write_text(text.replace('"""CTS,', '"""Another docstring. CTS,'))
    assert computed() == []
    scorer.write_text(text.replace("conditioned.logprob - unconditioned", "unconditioned.logprob - conditioned"))
    assert computed() == [
        ("score", "cotpress.scoring.scorers.cts"), ("compress", ""), ("sft", ""), ("answer", ""), ("evaluate", "")
    ]  # fmt: skip
    scorer.write_text(text)
    assert computed() == []
