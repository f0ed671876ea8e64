import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.data.config import Importance
from cotpress.data.truth import ThoughtAnchors, locate
from cotpress.errors import DataError

KL = Importance.counterfactual_importance_kl


def chunk(text: str, value: Any = 0.5) -> dict[str, Any]:
    return {"chunk": text, "counterfactual_importance_kl": value, "resampling_importance_kl": 9.0}


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "a", "question": "q?", "answer": "3", "solution": "First.\n\n1 + 2\n= 3.</think>\nIt is 3.",
        "chunks": [chunk("First.", 0.25), chunk("1 + 2 = 3.", 2)], **changes,
    }  # fmt: skip


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "anchors.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_sentences_are_located_in_the_original_text(tmp_path: Path) -> None:
    ((trace, sentences),) = ThoughtAnchors(write(tmp_path, row()), KL)
    assert trace.thinking == "First.\n\n1 + 2\n= 3."
    assert trace.response == "It is 3."
    assert [(trace.thinking[s.start : s.end], s.importance) for s in sentences] == [
        ("First.", 0.25), ("1 + 2\n= 3.", 2.0),
    ]  # fmt: skip


def test_measure_follows_the_setting(tmp_path: Path) -> None:
    ((_, sentences),) = ThoughtAnchors(write(tmp_path, row()), Importance.resampling_importance_kl)
    assert [s.importance for s in sentences] == [9.0, 9.0]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row(id="b", chunks=[]), "empty chunks"),
        (row(id="b", chunks="First."), "wrong type of 'chunks'"),
        (row(id="b", chunks=["First."]), "a chunk without text"),
        (row(id="b", chunks=[chunk("First.", None)]), "a chunk without counterfactual_importance_kl"),
        (row(id="b", chunks=[chunk("First.", float("nan"))]), "a chunk without counterfactual_importance_kl"),
        (row(id="b", chunks=[chunk("Second.")]), "a chunk that is not in the thinking"),
        (row(id="b", chunks=[chunk("1 + 2"), chunk("First.")]), "a chunk that is not in the thinking"),
        (row(id="b", solution=" "), "empty solution"),
        ({"id": "b"}, "missing field 'question'"),
    ],
)
def test_bad_rows_are_counted_by_reason(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    anchors = ThoughtAnchors(write(tmp_path, row(), bad), KL)
    assert [trace.id for trace, _ in anchors] == ["a"]
    assert dict(anchors.dropped) == {reason: 1}


def test_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"truth\.path: .*does not exist"):
        ThoughtAnchors(tmp_path / "none.jsonl", KL)


@given(st.lists(st.text("ab \n", max_size=6), max_size=6), st.lists(st.sampled_from([" ", "\n\n", ""]), max_size=6))
def test_pieces_of_a_text_are_located_in_order(pieces: list[str], gaps: list[str]) -> None:
    text = "".join(p + g for p, g in zip(pieces, [*gaps, *[""] * len(pieces)], strict=False))
    ranges = locate(text, pieces)
    assert ranges is not None
    for piece, (start, end) in zip(pieces, ranges, strict=True):
        assert text[start:end].split() == piece.split() or "".join(text[start:end].split()) == "".join(piece.split())
    filled = [r for r in ranges if r[0] < r[1]]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(filled))
