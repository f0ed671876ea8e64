"""Whole commands on a full disk, on a read-only disk and with damaged artifacts of every kind."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.commands import Command
from support.undisturbed import contents

FLOW = [
    "model=tiny", "scorer=cts", "ratio=0.5", "data.num_traces=16", "benchmark.num_problems=2",
    "benchmark.max_new_tokens=8", "evaluation.baselines=[]", "trainer.checkpoint_every_s=0",
]  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system with given options, or remount it with others; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(options: str) -> Path:
        remount = ["remount"] if place.is_mount() else []
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*remount, options]), "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def test_full_disk_is_one_message_and_the_repeated_run_resumes(command: Command, disk: Callable[[str], Path]) -> None:
    small, arguments = disk("size=300k"), ["model=tiny", "scorer=random", "ratio=0.5", "data.num_traces=16"]
    full = command("compress.py", *arguments, cwd=small)
    assert full.returncode == 1
    assert "error: " in full.stderr
    assert "No space left on device" in full.stderr
    assert "output_root=DIR" in full.stderr
    assert "Traceback" not in full.stderr
    assert "Logging error" not in full.stderr
    disk("size=20m")
    again = command("compress.py", *arguments, cwd=small)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "data: computing" not in again.stderr


def test_read_only_output_is_an_error_before_any_work(command: Command, disk: Callable[[str], Path]) -> None:
    place = disk("size=1m,ro")
    for arguments in (["train.py", f"output_root={place}/o"], ["compress.py", f"output={place}/o"]):
        refused = command(*arguments, "model=tiny", "scorer=random", "ratio=0.5")
        assert refused.returncode == 1, refused.stderr[-2000:]
        assert "Read-only file system" in refused.stderr
        assert "=DIR" in refused.stderr
        assert "computing" not in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["bit", "truncated", "missing"])
def test_damaged_artifact_of_every_kind_is_detected_and_computed_again(
    command: Command, tmp_path: Path, damage: str
) -> None:
    assert command("train.py", *FLOW, cwd=tmp_path).returncode == 0
    before = contents(tmp_path / "outputs")
    artifacts = tmp_path / "outputs/artifacts"
    stages = {p.name for p in artifacts.iterdir() if p.name != ".partial"}
    assert stages >= {"data", "model", "distill", "reference", "score", "compress", "sft", "answer", "evaluate"}
    for stage in stages:
        folder = next((artifacts / stage).iterdir())
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("manifest.json", "timing.json"))
        _damage(max(files, key=lambda p: p.stat().st_size), damage)
    (finished,) = tmp_path.glob("outputs/runs/*/finished.json")
    finished.unlink()  # else nothing would be read: the results are there
    again = command("train.py", *FLOW, cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    for stage in stages:
        assert f"artifact {stage}/" in again.stderr
        assert f"{stage}: computing" in again.stderr
    assert contents(tmp_path / "outputs") == before


@pytest.mark.slow
def test_damaged_results_of_a_run_are_not_shown(command: Command, tmp_path: Path) -> None:
    assert command("train.py", *FLOW, cwd=tmp_path).returncode == 0
    (results,) = tmp_path.glob("outputs/runs/*/results.json")
    text = results.read_text()
    results.write_text(text.replace('"target_ratio": 0.5', '"target_ratio": 0.9'))
    report = command("report.py", cwd=tmp_path)
    assert report.returncode == 0, report.stderr[-2000:]
    assert "results.json' is damaged" in report.stdout + report.stderr
    again = command("train.py", *FLOW, cwd=tmp_path)
    assert again.returncode == 0
    assert "computing" not in again.stderr
    assert '"target_ratio": 0.5' in results.read_text()


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "bit" else content[: len(content) // 2])
