import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from cotpress.errors import ArtifactError
from cotpress.store.artifacts import MANIFEST, SCRATCH, ArtifactStore, Summary, fingerprint
from support.jobs import slow_job


def _write(text: str, calls: list[int] | None = None):
    def produce(folder: Path) -> Summary:
        if calls is not None:
            calls.append(1)
        (folder / "rows.txt").write_text(text)
        return Summary(num_rows=1, dropped={"too long": 2}, facts={"mean": 0.5})

    return produce


def test_log_names_the_modules_by_which_an_artifact_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, code = ArtifactStore(tmp_path), {f"cotpress.m{i}": "0" for i in range(6)}
    caplog.set_level(logging.INFO)
    store.build("data", {"seed": 1, "code": code}, _write("x"))
    assert "changed" not in caplog.text
    store.build("data", {"seed": 2, "code": code | {"cotpress.m1": "1"}}, _write("x"))
    assert "changed" not in caplog.text  # other settings
    store.build("data", {"seed": 1, "code": code | {"cotpress.m1": "1"}}, _write("x"))
    assert ", as cotpress.m1 changed after data/" in caplog.text
    store.build("data", {"seed": 1, "code": dict.fromkeys(code, "2")}, _write("x"))
    assert "cotpress.m0, cotpress.m1, cotpress.m2 and 3 other modules changed after" in caplog.text


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


def test_another_identity_gives_another_artifact(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    assert store.build("data", {"seed": 1}, _write("x")).key != store.build("data", {"seed": 2}, _write("x")).key
    assert store.find("data", {"seed": 3}) is None


def test_fingerprint_ignores_key_order_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": (1, 2), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    with pytest.raises(TypeError, match="object"):
        fingerprint({"a": object()})


def test_same_content_gives_same_bytes_manifest_included(tmp_path: Path) -> None:
    first, second = (ArtifactStore(tmp_path / name).build("data", {"seed": 1}, _write("x")) for name in "ab")
    assert (first.path / MANIFEST).read_bytes() == (second.path / MANIFEST).read_bytes()


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
def test_damaged_artifact_is_recomputed_never_read(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
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
    with caplog.at_level(logging.WARNING):
        assert store.build("data", {}, _write("hello")).file("rows.txt").read_text() == "hello"
    assert "is set aside and computed again" in caplog.text


def test_any_flipped_bit_of_an_artifact_is_detected(tmp_path: Path) -> None:
    built = ArtifactStore(tmp_path).build("data", {"seed": 1}, _write("hello"))
    for name in ("rows.txt", MANIFEST):
        whole = (built.path / name).read_bytes()
        for bit in range(0, 8 * len(whole), 3):
            content = bytearray(whole)
            content[bit // 8] ^= 1 << bit % 8
            (built.path / name).write_bytes(content)
            try:
                artifact = ArtifactStore(tmp_path).find("data", {"seed": 1})
            except ArtifactError as error:
                assert "damaged" in str(error)  # noqa: PT017 (a changed white space of the manifest is harmless)
            else:
                assert artifact is not None
                assert artifact.manifest == built.manifest
                assert artifact.file("rows.txt").read_text() == "hello"
        (built.path / name).write_bytes(whole)


def test_manifest_of_another_artifact_counts_as_damage(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first, second = (store.build("data", {"seed": seed}, _write("x")) for seed in (1, 2))
    (first.path / MANIFEST).write_bytes((second.path / MANIFEST).read_bytes())
    with pytest.raises(ArtifactError, match=r"not that of this artifact"):
        store.find("data", {"seed": 1})


def test_open_verifies_a_file_when_it_is_requested(tmp_path: Path) -> None:
    def produce(folder: Path) -> Summary:
        (folder / "small").write_text("small")
        (folder / "weights").write_text("weights")
        return Summary(num_rows=1)

    built = ArtifactStore(tmp_path).build("sft", {}, produce)
    (built.path / "weights").write_text("weighty")
    opened = ArtifactStore(tmp_path).open(built.key)
    assert opened is not None
    assert opened.file("small").read_text() == "small"
    with pytest.raises(ArtifactError, match="checksum of weights differs"):
        opened.file("weights")


def test_half_written_files_of_a_killed_call_are_removed(tmp_path: Path) -> None:
    whole = ArtifactStore(tmp_path / "whole").build("data", {}, _write("x"))

    def dies(folder: Path) -> Summary:
        (folder / "adapter").mkdir()
        (folder / "adapter/weights").write_text("half")
        (folder / f".{MANIFEST}.1.tmp").write_text("{")
        (folder / SCRATCH).mkdir()
        raise KeyboardInterrupt

    store = ArtifactStore(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        store.build("data", {}, dies)
    built = store.build("data", {}, _write("x"))
    assert (built.path / MANIFEST).read_bytes() == (whole.path / MANIFEST).read_bytes()
    assert {p.name for p in built.path.iterdir()} == {p.name for p in whole.path.iterdir()}


def test_damaged_artifact_is_set_aside_only_with_its_lock_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job may have replaced it before the lock is acquired."""
    first, second = ArtifactStore(tmp_path), ArtifactStore(tmp_path)
    built = first.build("data", {}, _write("good"))
    (built.path / "rows.txt").write_text("baad")
    lock = second._lock

    def repaired_meanwhile(key: str):
        first.build("data", {}, _write("good"))
        return lock(key)

    monkeypatch.setattr(second, "_lock", repaired_meanwhile)
    calls: list[int] = []
    assert second.build("data", {}, _write("good", calls)).file("rows.txt").read_text() == "good"
    assert not calls
    assert len(list((tmp_path / "artifacts/.partial").glob("damaged-*"))) == 1


def test_jumping_clock_changes_neither_durations_nor_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumping = iter([2e9, 1e9, 3e9, 0.0] * 50)
    straight = ArtifactStore(tmp_path / "straight").build("data", {}, _write("x"))
    monkeypatch.setattr(time, "time", lambda: next(jumping))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(jumping) * 1e9))
    jumped = ArtifactStore(tmp_path / "jumped").build("data", {}, _write("x"))
    assert 0 <= jumped.seconds < 60
    assert (jumped.path / MANIFEST).read_bytes() == (straight.path / MANIFEST).read_bytes()
    os.utime(jumped.path / "rows.txt", (0, 0))  # far older than its manifest
    assert ArtifactStore(tmp_path / "jumped").find("data", {}) is not None


def test_unknown_file_of_an_artifact_is_an_error_with_the_choices(tmp_path: Path) -> None:
    built = ArtifactStore(tmp_path).build("data", {}, _write("x"))
    with pytest.raises(ArtifactError, match=r"no file 'other'.*rows\.txt"):
        built.file("other")


def test_unwritable_output_is_an_error_with_a_fix(tmp_path: Path) -> None:
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
