import errno
import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cotpress.errors import ArtifactError, UnreadableError
from cotpress.store.artifacts import (
    CHECKSUM,
    MANIFEST,
    SCRATCH,
    ArtifactStore,
    Summary,
    content_checksum,
    fingerprint,
    replaced,
    write_text_atomic,
)
from support.disks import as_user, open_files
from support.jobs import slow_job
from support.waiting import wait_until


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


def test_line_of_a_stage_lists_the_same_losses_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ArtifactStore(tmp_path)
    caplog.set_level(logging.INFO)
    for stage, seed in (("data", 1), ("data", 2), ("score", 1)):
        store.build(stage, {"seed": seed}, _write("x"))
    ends = [line.partition("s (")[2] for line in caplog.messages if " rows in " in line]
    assert ends == ["2 dropped: too long)", "dropped as above)", "2 dropped: too long)"]


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


@pytest.mark.parametrize("skew_s", [-600, 600])
def test_lock_counts_while_it_is_held_whatever_the_time_of_its_file_is(tmp_path: Path, skew_s: int) -> None:
    store, taken = ArtifactStore(tmp_path), threading.Event()

    def take() -> None:
        with store.exclusive("work", "name"):
            taken.set()

    thread = threading.Thread(target=take)
    with store.exclusive("work", "name"):
        (lock,) = tmp_path.rglob("*.lock")
        os.utime(lock, (time.time() + skew_s,) * 2)
        thread.start()
        assert not taken.wait(0.3)
    thread.join(20)
    assert taken.is_set()


def test_lock_of_a_killed_job_is_taken_over(tmp_path: Path) -> None:
    context, count = multiprocessing.get_context("spawn"), tmp_path / "count"
    victim = context.Process(target=slow_job, args=(tmp_path, count, 60), daemon=True)
    victim.start()
    wait_until(lambda: count.exists() and count.read_text() == "x", 60, "the first computation")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(10)
    slow_job(tmp_path, count, 0)
    assert count.read_text() == "xx"
    assert json.loads(next((tmp_path / "artifacts" / "data").glob("*/manifest.json")).read_text())["num_rows"] == 1


def test_a_read_that_fails_moves_nothing_and_is_told(public_folder: Path) -> None:
    store = ArtifactStore(public_folder)
    built = store.build("data", {}, _write("hello"))
    for path in (built.path / "rows.txt", built.path / MANIFEST, built.path, built.path.parent):
        before = path.stat().st_mode
        path.chmod(0o600)
        with as_user():
            other = ArtifactStore(public_folder)
            with pytest.raises(UnreadableError, match=r"cannot be read: Permission denied.*left as it is"):
                other.find("data", {})
            with pytest.raises(UnreadableError, match=r"cannot be read: Permission denied.*left as it is"):
                other.build("data", {}, _write("hello"))
        path.chmod(before)
    assert store.find("data", {}) is not None
    assert not list((public_folder / "artifacts/.partial").glob("damaged-*"))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENOMEM, errno.ETIMEDOUT, errno.EINTR, errno.ENODEV])
def test_an_error_of_the_system_is_no_damage(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    built = ArtifactStore(tmp_path).build("data", {}, _write("hello"))

    def fails(path: Path) -> str:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("cotpress.store.artifacts.file_sha256", fails)
    with pytest.raises(UnreadableError, match=os.strerror(number)):
        ArtifactStore(tmp_path).build("data", {}, _write("hello"))
    monkeypatch.undo()
    assert ArtifactStore(tmp_path).find("data", {}).path == built.path  # type: ignore[union-attr]


def test_too_many_open_files_are_no_damage_and_the_fix_is_named(tmp_path: Path) -> None:
    ArtifactStore(tmp_path).build("data", {}, _write("hello"))
    store = ArtifactStore(tmp_path)
    with open_files(0), pytest.raises(UnreadableError, match=r"Too many open files.*ulimit -n"):
        store.build("data", {}, _write("hello"))
    assert store.find("data", {}) is not None


def test_files_follow_the_umask_whoever_wrote_them(tmp_path: Path) -> None:
    def produce(folder: Path) -> Summary:
        (folder / "adapter").mkdir()
        save_file({"a": torch.zeros(2)}, folder / "adapter/weights.safetensors")
        (folder / "private.txt").write_text("x")
        (folder / "private.txt").chmod(0o600)
        (folder / "link").symlink_to(elsewhere)
        return Summary(num_rows=1)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x")
    elsewhere.chmod(0o640)
    for umask, mode in ((0o002, 0o664), (0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            built = ArtifactStore(tmp_path / f"{umask:o}").build("sft", {}, produce)
            write_text_atomic(tmp_path / f"{umask:o}.json", "x")
        finally:
            os.umask(before)
        partial = tmp_path / f"{umask:o}/artifacts/.partial"
        paths = [*(p for p in built.path.rglob("*") if p.is_file() and not p.is_symlink()), *partial.glob("*.lock")]
        paths.append(tmp_path / f"{umask:o}.json")
        assert {p.name: oct(p.stat().st_mode & 0o777) for p in paths} == {p.name: oct(mode) for p in paths}
    assert elsewhere.stat().st_mode & 0o777 == 0o640


def test_two_users_of_one_group_share_an_output_root(public_folder: Path) -> None:
    def half(folder: Path) -> Summary:
        (folder / SCRATCH).mkdir()
        (folder / SCRATCH / "part").write_text("half")
        raise RuntimeError("stopped")

    with as_user(4001, umask=0):
        first = ArtifactStore(public_folder).build("data", {}, _write("x"))
        with pytest.raises(RuntimeError):
            ArtifactStore(public_folder).build("score", {}, half)
    with as_user(4002, umask=0):
        store = ArtifactStore(public_folder)
        assert store.build("data", {}, _write("y")).path == first.path
        (first.path / "rows.txt").write_text("damaged")
        assert store.build("data", {}, _write("x")).file("rows.txt").read_text() == "x"
        assert store.build("score", {}, _write("z")).fresh


def test_a_user_who_may_only_read_finds_what_is_finished(public_folder: Path) -> None:
    with as_user(4001):
        built = ArtifactStore(public_folder).build("data", {}, _write("x"))
    with as_user(4002):
        store = ArtifactStore(public_folder)
        assert store.build("data", {}, _write("y")).path == built.path
        with store.sharing("data", {}, "1-of-2") as folder:
            assert folder is None
        with pytest.raises(ArtifactError, match=r"cannot write below .*Permission denied.*output_root=DIR"):
            store.build("data", {"seed": 2}, _write("y"))


def test_stage_folder_on_another_disk_is_written(tmp_path: Path, other_disk: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/sft").symlink_to(other_disk)
    store = ArtifactStore(tmp_path)
    built = store.build("sft", {}, _write("x"))
    assert built.path.resolve().is_relative_to(other_disk)
    assert [p.name for p in other_disk.iterdir()] == [built.fingerprint]
    (built.path / "rows.txt").write_text("damaged")
    assert store.build("sft", {}, _write("x")).file("rows.txt").read_text() == "x"
    assert len(list((tmp_path / "artifacts/.partial").glob("damaged-*"))) == 1


def test_copy_of_a_killed_move_is_replaced(tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/sft").symlink_to(other_disk)
    copytree = shutil.copytree

    def killed(source: Path, target: Path, **options: Any) -> None:
        copytree(source, target, **options)
        os._exit(9)

    if (child := os.fork()) == 0:
        shutil.copytree = killed
        ArtifactStore(tmp_path).build("sft", {}, _write("x"))
    os.waitpid(child, 0)
    assert [p.name[0] for p in other_disk.iterdir()] == ["."]
    built = ArtifactStore(tmp_path).build("sft", {}, _write("x"))
    assert [p.name for p in other_disk.iterdir()] == [built.fingerprint]


def test_stage_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/sft").symlink_to(tmp_path / "unmounted")
    calls: list[int] = []
    with pytest.raises(ArtifactError, match=r"sft: cannot write below"):
        ArtifactStore(tmp_path).build("sft", {}, _write("x", calls))
    assert not calls


@pytest.mark.parametrize(
    "change",
    [
        {}, {"num_rows": "many"}, {"dropped": []}, {"facts": None}, {"files": ["rows.txt"]}, {"files": {"rows.txt": 3}},
        {"files": {}, "extra": 1}, {"stage": 3}, {"fingerprint": ["x"]}, {"files": {"/etc/hostname": ""}},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_is_not_what_it_should_be_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    """Without a change only the checksum is missing; the others have the checksum of their content."""
    store = ArtifactStore(tmp_path)
    path = store.build("data", {}, _write("x")).path / MANIFEST
    content = {**json.loads(path.read_text()), **change}
    del content[CHECKSUM]
    path.write_text(json.dumps({**content, **({CHECKSUM: content_checksum(content)} if change else {})}))
    with pytest.raises(ArtifactError, match="damaged"):
        ArtifactStore(tmp_path).find("data", {})


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "[" * 100_000, "\ufeff", "\0", "{" * 9, "1" * 5000])
def test_a_manifest_of_another_shape_is_damage(tmp_path: Path, text: str) -> None:
    store = ArtifactStore(tmp_path)
    path = store.build("data", {}, _write("x")).path / MANIFEST
    path.write_text(text)
    with pytest.raises(ArtifactError, match="damaged"):
        store.find("data", {})
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match="damaged"):
        store.find("data", {})


@pytest.mark.parametrize("skew_s", [-600, 0, 600])
def test_temporary_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path, skew_s: int
) -> None:
    """Whatever the times of the files are: those of a shared folder come from several clocks."""
    left = [tmp_path / f".{name}.0123456789abcdef.tmp" for name in ("a.json", "compressed.trl.jsonl")]
    foreign = [tmp_path / name for name in (".a.json.1.tmp", "a.tmp", ".tmp", ".b.0123456789abcdef.tmpx")]
    for path in (*left, *foreign):
        path.write_text("half")
        os.utime(path, (time.time() + skew_s,) * 2)
    with replaced(tmp_path / "b.json") as living:
        living.write_text("whole")
        os.utime(living, (time.time() - skew_s,) * 2)
        assert not any(path.exists() for path in left)
        write_text_atomic(tmp_path / "c.json", "whole")
        assert living.exists()
    assert (tmp_path / "b.json").read_text() == "whole"
    assert {p.name for p in tmp_path.iterdir()} == {"b.json", "c.json", *(p.name for p in foreign)}


def test_temporary_file_that_another_process_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, []

    def removes(file: Any, operation: int) -> None:
        if not removed:  # between creation and lock
            removed.append(Path(file.name))
            removed[0].unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removes)
    write_text_atomic(tmp_path / "a.json", "whole")
    assert (tmp_path / "a.json").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_interrupted_replacement_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(type(error)), replaced(path) as temporary:  # noqa: PT012 (the error comes from inside)
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_error_of_a_replacement_names_the_file_and_not_the_temporary_one(public_folder: Path) -> None:
    closed = public_folder / "closed"
    closed.mkdir(mode=0o755)
    with as_user(), pytest.raises(PermissionError) as refused:
        write_text_atomic(closed / "a.json", "x")
    assert refused.value.filename == str(closed / "a.json")
    (public_folder / "a.json").write_text("of root")
    (public_folder / "a.json").chmod(0o600)
    with as_user():
        write_text_atomic(public_folder / "a.json", "of another")  # the folder decides
        assert (public_folder / "a.json").read_text() == "of another"
