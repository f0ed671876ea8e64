import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from cotpress.artifacts import MANIFEST, SCRATCH, ArtifactStore, Summary, fingerprint
from cotpress.errors import ArtifactError
from jobs import slow_job


def _write(text: str, calls: list[int] | None = None):
    def produce(folder: Path) -> Summary:
        if calls is not None:
            calls.append(1)
        (folder / "rows.txt").write_text(text)
        return Summary(num_rows=1, dropped={"too long": 2}, facts={"mean": 0.5})

    return produce


def test_artifact_is_computed_once_and_found_again(tmp_path: Path) -> None:
    calls: list[int] = []
    store = ArtifactStore(tmp_path)
    first = store.build("data", {"seed": 1}, _write("x", calls))
    second = ArtifactStore(tmp_path).build("data", {"seed": 1}, _write("y", calls))
    assert len(calls) == 1
    assert first.key == second.key
    assert second.file("rows.txt").read_text() == "x"
    assert second.manifest["dropped"] == {"too long": 2}
    assert second.facts == {"mean": 0.5}


def test_other_identity_is_another_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.build("data", {"seed": 1}, _write("x")).key != store.build("data", {"seed": 2}, _write("x")).key
    assert store.find("data", {"seed": 3}) is None


def test_fingerprint_ignores_key_order_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": (1, 2), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    with pytest.raises(TypeError, match="object"):
        fingerprint({"a": object()})


def test_same_content_gives_same_bytes_manifest_included(tmp_path: Path) -> None:
    one = ArtifactStore(tmp_path / "1").build("data", {"seed": 1}, _write("x"))
    two = ArtifactStore(tmp_path / "2").build("data", {"seed": 1}, _write("x"))
    assert (one.path / MANIFEST).read_bytes() == (two.path / MANIFEST).read_bytes()


def test_failed_stage_leaves_no_artifact_but_keeps_its_scratch(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def fails(folder: Path) -> Summary:
        (folder / SCRATCH).mkdir()
        (folder / SCRATCH / "part").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.build("score", {}, fails)
    assert store.find("score", {}) is None

    def resumes(folder: Path) -> Summary:
        (folder / "rows.txt").write_text((folder / SCRATCH / "part").read_text())
        return Summary(num_rows=1)

    built = store.build("score", {}, resumes)
    assert built.file("rows.txt").read_text() == "half"
    assert not (built.path / SCRATCH).exists()


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest"])
def test_damaged_artifact_is_recomputed_never_read(tmp_path: Path, damage: str) -> None:
    store = ArtifactStore(tmp_path)
    built = store.build("data", {}, _write("hello"))
    if damage == "truncate":
        (built.path / "rows.txt").write_text("hel")
    elif damage == "delete":
        (built.path / "rows.txt").unlink()
    else:
        (built.path / MANIFEST).write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        store.find("data", {})
    assert store.build("data", {}, _write("hello")).file("rows.txt").read_text() == "hello"


def test_unknown_file_of_an_artifact_is_a_clear_error(tmp_path: Path) -> None:
    built = ArtifactStore(tmp_path).build("data", {}, _write("x"))
    with pytest.raises(ArtifactError, match=r"no file 'other'.*rows\.txt"):
        built.file("other")


def test_output_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ArtifactError, match="output_root=DIR"):
        ArtifactStore(blocked).build("data", {}, _write("x"))


def test_four_jobs_that_start_together_compute_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=slow_job, args=(tmp_path, tmp_path / "count", 0.5)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0] * 4
    assert (tmp_path / "count").read_text() == "x"


def test_lock_of_a_killed_job_is_taken_over(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    victim = context.Process(target=slow_job, args=(tmp_path, tmp_path / "count", 60))
    victim.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "count").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    slow_job(tmp_path, tmp_path / "count", 0)
    assert (tmp_path / "count").read_text() == "xx"
    assert json.loads(next((tmp_path / "artifacts" / "data").glob("*/manifest.json")).read_text())["num_rows"] == 1
