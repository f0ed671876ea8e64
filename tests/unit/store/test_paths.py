"""Errors of a full disk, as raised by each library that writes files.

A limit on the file size simulates the full disk: mounting a small file system needs special rights
(tests/integration/test_faults.py mounts one), and libraries would delete /dev/full when they clean up after a failure.
"""

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from cotpress.errors import ArtifactError, ConfigError
from cotpress.store.artifacts import ArtifactStore, Summary, write_text_atomic
from cotpress.store.paths import disk_problem, files_below, is_unreadable, require_writable, safe_name

Write = Callable[[Path], object]


@contextmanager
def no_room(num_bytes: int = 0) -> Iterator[None]:
    """Make writes beyond this many bytes of a file fail with EFBIG (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _text(path: Path) -> None:
    path.write_text("x")


def _parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def _torch(path: Path) -> None:
    torch.save({"a": torch.zeros(9)}, path)


def _torch_stream(path: Path) -> None:
    with path.open("wb") as handle:
        torch.save({"a": torch.zeros(9)}, handle)


def _safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(9)}, path)


WRITERS = [_text, _parquet, _torch, _torch_stream, _safetensors]


@pytest.mark.parametrize("write", WRITERS)
def test_full_disk_is_recognised_in_the_errors_of_every_library(tmp_path: Path, write: Write) -> None:
    with pytest.raises(Exception) as caught, no_room():  # noqa: PT011 (the type differs by library)
        write(tmp_path / "file")
    assert disk_problem(caught.value)


@pytest.mark.parametrize("write", WRITERS)
def test_stage_on_a_full_disk_ends_with_a_fix_and_without_an_artifact(tmp_path: Path, write: Write) -> None:
    store = ArtifactStore(tmp_path)

    def produce(folder: Path) -> Summary:
        with no_room():
            write(folder / "file")
        return Summary(num_rows=1)

    with pytest.raises(ArtifactError, match=r"data: cannot write below .*output_root=DIR.*Finished stages are kept"):
        store.build("data", {}, produce)
    assert store.find("data", {}) is None


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_other_disk_errors_have_the_systems_message(number: int) -> None:
    assert os.strerror(number) in str(disk_problem(OSError(number, os.strerror(number), "place")))


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "no"), ConnectionError("x"), ValueError("x"), KeyError(28)])
def test_errors_with_other_causes_are_unchanged(tmp_path: Path, error: Exception) -> None:
    assert disk_problem(error) is None

    def produce(folder: Path) -> Summary:
        raise error

    with pytest.raises(type(error)):
        ArtifactStore(tmp_path).build("data", {}, produce)


def test_failed_atomic_write_keeps_the_old_text_and_leaves_no_temporary_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    write_text_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_require_writable_creates_the_folder_or_raises(tmp_path: Path) -> None:
    require_writable(tmp_path / "new/deep", "output")
    assert list((tmp_path / "new/deep").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"output: .*file/x' cannot be written: Not a directory\. Fix: output=DIR"):
        require_writable(tmp_path / "file/x", "output")


NAMES = [
    "a/b", "a-b", "a:b", "a b", "a\nb", "a*b", "a?b", "a--b", "ä-b", "a\u0308-b", "", "-", ".", "..", "/", "x" * 300,
    "x" * 301, "y" * 200, "y" * 199 + "z" * 2, "模" * 80, "模" * 81, "\ud800", "\ud801", "[*]", "[/]", "['*']", "a\0",
]  # fmt: skip


def test_different_texts_give_different_names_and_usual_ones_stay() -> None:
    made = [safe_name(name) for name in NAMES]
    assert len(set(made)) == len(NAMES)
    assert all(Path(name).name == name and len(name.encode()) <= 200 for name in made)
    assert [safe_name(name) for name in ("a-b", "cts-0.7-tiny", "模型", "ratio_0.5")] == [
        "a-b", "cts-0.7-tiny", "模型", "ratio_0.5",
    ]  # fmt: skip


def test_error_of_the_system_is_told_from_what_a_library_found() -> None:
    assert is_unreadable(PermissionError(errno.EACCES, "x"))
    assert is_unreadable(OSError(errno.EIO, "x"))
    assert not is_unreadable(OSError("CRC checksum verification failed"))  # of arrow, without a number
    assert not is_unreadable(FileNotFoundError(errno.ENOENT, "x"))
    assert not is_unreadable(ValueError("x"))


def test_folder_with_too_many_files_is_refused_before_all_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert [p.name for p in files_below(tmp_path, "data.path")] == ["a", "b", "c"]
    monkeypatch.setattr("cotpress.store.paths._MOST_FILES", 2)
    with pytest.raises(ConfigError, match=r"data\.path: .* more than 2 files.*Fix: data\.path=PATH"):
        files_below(tmp_path, "data.path")
