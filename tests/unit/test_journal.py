from dataclasses import dataclass
from pathlib import Path

from cotpress.journal import Journal


@dataclass(frozen=True)
class Note:
    id: str
    text: str


def opened(path: Path) -> Journal[Note, str]:
    return Journal(path, Note, lambda note: note.id)


def test_records_are_there_again_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "scratch/notes.jsonl"
    journal = opened(path)
    notes = [Note("a", "line\nbreak \u2028 and \U0001f600"), Note("b", "\ud800"), Note("a", "later")]
    for note in notes:
        journal.add(note)
    assert journal.done == opened(path).done == {"a": notes[2], "b": notes[1]}


def test_torn_last_line_is_forgotten_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    opened(path).add(Note("a", "x"))
    with path.open("a") as handle:
        handle.write('{"id": "b", "te')
    journal = opened(path)
    journal.add(Note("c", "y"))
    assert list(opened(path).done) == ["a", "c"]
