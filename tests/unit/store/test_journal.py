import logging
import resource
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from cotpress.errors import UnreadableError
from cotpress.store.journal import Journal
from support.disks import as_user


@dataclass(frozen=True)
class Note:
    id: str
    text: str


def opened(path: Path) -> Journal[Note]:
    return Journal(path, Note)


def test_records_survive_reopening(tmp_path: Path) -> None:
    path = tmp_path / "scratch/notes.jsonl"
    journal = opened(path)
    notes = [Note("a", "line\nbreak \u2028 and \U0001f600"), Note("b", "\ud800"), Note("a", "later")]
    for note in notes:
        journal[note.id] = note
    assert journal == opened(path) == {"a": notes[2], "b": notes[1]}


def test_torn_last_line_is_dropped_and_the_next_record_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    opened(path)["a"] = Note("a", "x")
    with path.open("a") as handle:
        handle.write('00000000 ["b", {"id": "b", "te')
    journal = opened(path)
    journal["c"] = Note("c", "y")
    assert list(opened(path)) == ["a", "c"]


def test_damaged_line_is_dropped_with_a_warning_and_the_others_stay(tmp_path: Path, caplog) -> None:
    path = tmp_path / "notes.jsonl"
    for name in "abc":
        opened(path)[name] = Note(name, "text")
    content = bytearray(path.read_bytes())
    content[content.index(b'"b", "text": "t') + 15] ^= 1  # a letter of a text, so that the line stays valid JSON
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert list(opened(path)) == ["a", "c"]
    assert "1 of 3 records" in caplog.text


def test_any_flipped_bit_of_a_record_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    opened(path)["a"] = Note("a", "x")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert dict(opened(path)) in ({}, {"a": Note("a", "x")})


def test_opening_never_rewrites_the_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "notes.jsonl"
    opened(path)["a"] = Note("a", "x")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: pytest.fail("a kill in between would lose all records"))
    assert list(opened(path)) == ["a"]


def test_full_disk_loses_only_the_record_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    journal = opened(path)
    journal["a"] = Note("a", "x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))  # room for a piece of the next line
    try:
        with pytest.raises(OSError, match="File too large"):
            journal["b"] = Note("b", "y")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = opened(path)
    assert list(again) == ["a"]
    again["c"] = Note("c", "z")
    assert list(opened(path)) == ["a", "c"]


def test_journal_that_cannot_be_read_is_told_and_stays(public_folder: Path) -> None:
    path = public_folder / "notes.jsonl"
    opened(path)["a"] = Note("a", "x")
    path.chmod(0o200)
    with as_user(), pytest.raises(UnreadableError, match="Permission denied"):
        opened(path)
    path.chmod(0o600)
    assert list(opened(path)) == ["a"]


def test_whole_line_of_another_class_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    opened(path)["a"] = Note("a", "x")
    for content in (
        b"3",
        b"[]",
        b'["b", 3]',
        b'["b", {"id": "b"}]',
        b'["b", {"id": "b", "text": "x", "more": 1}]',
        b"x",
    ):
        with path.open("ab") as handle:
            handle.write(b"%08x %s\n" % (zlib.crc32(content), content))
    assert list(opened(path)) == ["a"]
