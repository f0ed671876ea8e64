import json
from pathlib import Path
from typing import Any

import pytest

from cotpress.data.config import Redundant
from cotpress.data.truth import Prmbench, differing

ROW = {
    "id": "p1", "question": "q?", "original_steps": ["A.", "B.", "C."],
    "modified_steps_text": ["A.", "A again.", "B.", "C, edited."], "error_steps": [2, 4],
}  # fmt: skip


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "prm.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def kinds(path: Path, redundant: Redundant) -> list[list[tuple[str, str]]]:
    return [[(t.thinking[s.start : s.end].strip(), s.kind) for s in t.spans] for t in Prmbench(path, redundant)]


def test_inserted_steps_are_the_difference_of_the_texts(tmp_path: Path) -> None:
    assert kinds(write(tmp_path, ROW), Redundant.inserted) == [
        [("A.", "original"), ("A again.", "inserted"), ("B.", "original"), ("C, edited.", "edited")]
    ]


def test_annotation_counts_from_one(tmp_path: Path) -> None:
    assert kinds(write(tmp_path, ROW), Redundant.error_steps) == [
        [("A.", "original"), ("A again.", "inserted"), ("B.", "original"), ("C, edited.", "inserted")]
    ]


def test_steps_cover_the_thinking_and_only_inserted_ones_are_not_essential(tmp_path: Path) -> None:
    (trace,) = Prmbench(write(tmp_path, ROW), Redundant.inserted)
    assert trace.thinking == "A.\nA again.\nB.\nC, edited."
    assert [s.start for s in trace.spans] == [0, *(s.end for s in trace.spans[:-1])]
    assert trace.spans[-1].end == len(trace.thinking)
    assert [s.essential for s in trace.spans] == [True, False, True, True]


def test_verbatim_repeat_is_inserted_once() -> None:
    assert differing(["A", "B"], ["A", "A", "B"]).count("inserted") == 1


@pytest.mark.parametrize(
    ("change", "redundant", "reason"),
    [
        ({"modified_steps_text": ["A.", "B.", "C."]}, Redundant.inserted, "no inserted step"),
        ({"error_steps": [5]}, Redundant.error_steps, "error_steps name a step that is not there"),
        ({"error_steps": [0]}, Redundant.error_steps, "error_steps name a step that is not there"),
        ({"error_steps": []}, Redundant.error_steps, "no inserted step"),
        ({"modified_steps_text": ["A.", " "]}, Redundant.inserted, "a step without text"),
        ({"modified_steps_text": ["A.", 3]}, Redundant.inserted, "a step without text"),
        ({"original_steps": "A."}, Redundant.inserted, "wrong type of 'original_steps'"),
    ],
)
def test_bad_rows_are_counted_by_reason(
    tmp_path: Path, change: dict[str, Any], redundant: Redundant, reason: str
) -> None:
    bench = Prmbench(write(tmp_path, ROW, {**ROW, "id": "p2", **change}), redundant)
    assert [t.id for t in bench] == ["p1"]
    assert dict(bench.dropped) == {reason: 1}
