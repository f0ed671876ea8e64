"""`report.py` over finished runs."""

import pytest

from support.commands import SMALL, Command

pytestmark = pytest.mark.timeout(300)


def test_report_of_all_runs(command: Command) -> None:
    for scorer in ("cts", "random"):
        done = command("train.py", f"scorer={scorer}", "ratio=0.7", "reference=none", "evaluation.baselines=[]", *SMALL)
        assert done.returncode == 0, done.stderr[-3000:]
    done = command("report.py", "runs=outputs/runs", "output=report")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cts" in done.stdout
    assert "random" in done.stdout
    assert (
        '<script type="application/json" id="viewer-data">' in (command.folder / "report" / "report.html").read_text()
    )
