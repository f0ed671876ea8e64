import dataclasses
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.data.config import (
    Importance,
    PlantedDataConfig,
    PlantedTruthConfig,
    PrmbenchConfig,
    Redundant,
    ThoughtAnchorsConfig,
    TruthConfig,
)
from cotpress.data.files import find_files
from cotpress.data.rows import RowReader
from cotpress.data.stage import traces
from cotpress.data.truth import (
    ANCHOR_FIELDS,
    PRMBENCH_FIELDS,
    Measured,
    differing,
    locate,
    prmbench,
    thought_anchors,
    truth,
)
from cotpress.errors import ConfigError, DataError
from cotpress.records import SentenceImportance, Trace, TruthKind
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "out")


def planted(**changes: Any) -> PlantedTruthConfig:
    return PlantedTruthConfig(**{"name": "planted", "num_traces": 30, **changes})


def test_no_planted_truth_has_the_numbers_of_a_training_trace_even_with_the_same_seed(store: ArtifactStore) -> None:
    judged = read_records(truth(planted(seed=1), store).file("traces.parquet"), Trace)
    data = PlantedDataConfig(name="planted", num_traces=120, seed=1)
    trained = read_records(traces(data, store).file("traces.parquet"), Trace)

    def numbers(t: Trace) -> tuple[str, ...]:
        return (t.family, *(t.thinking[s.start : s.end].strip() for s in t.spans if s.essential))

    assert not {numbers(t) for t in judged} & {numbers(t) for t in trained}
    assert {t.family for t in judged} == {t.family for t in trained}
    assert {t.split for t in judged} == {"train"}
    assert not {t.id for t in judged} & {t.id for t in trained}


def test_kind_is_a_fact_and_limit_is_applied(store: ArtifactStore) -> None:
    artifact = truth(planted(limit=4), store)
    assert TruthKind(artifact.facts["kind"]) is TruthKind.tokens
    assert artifact.manifest["num_rows"] == 4
    assert read_records(artifact.file("importance.parquet"), SentenceImportance) == []


def test_unknown_family_names_its_key(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match=r"truth\.families: got 'buss'\. Did you mean 'bus'"):
        truth(planted(families=["buss"]), store)


def test_unknown_kind_of_truth_is_an_error(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match="thought_anchors"):
        truth(TruthConfig(name="x"), store)


def test_file_without_usable_row_is_an_error_with_counts(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "prm.jsonl"
    path.write_text(
        '{"id": 1, "question": "q", "original_steps": ["A"], "modified_steps_text": ["A"], "error_steps": []}\n'
    )
    with pytest.raises(DataError, match="1 x no inserted step"):
        truth(PrmbenchConfig(name="prmbench", path=str(path)), store)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the data folder is not beside the checkout")
def test_measured_sentences_load(store: ArtifactStore) -> None:
    config = ThoughtAnchorsConfig(name="thought_anchors", path=str(SHARED / "thought_anchors_labeled.jsonl"))
    artifact = truth(config, store)
    assert (artifact.manifest["num_rows"], artifact.manifest["dropped"]) == (20, {})
    sentences = read_records(artifact.file("importance.parquet"), SentenceImportance)
    assert len(sentences) == 2338
    texts = {t.id: t.thinking for t in read_records(artifact.file("traces.parquet"), Trace)}
    assert all(0 <= s.start < s.end <= len(texts[s.id]) for s in sentences)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the data folder is not beside the checkout")
@pytest.mark.parametrize(
    ("redundant", "rows", "dropped"),
    [
        (Redundant.inserted, 254, {"no inserted step": 147}),
        (Redundant.error_steps, 397, {"error_steps name a step that is not there": 4}),
    ],
)
def test_inserted_steps_load(store: ArtifactStore, redundant: Redundant, rows: int, dropped: dict[str, int]) -> None:
    config = PrmbenchConfig(name="prmbench", path=str(SHARED / "prmbench_redundancy.jsonl"), redundant=redundant)
    artifact = truth(config, store)
    assert (artifact.manifest["num_rows"], artifact.manifest["dropped"]) == (rows, dropped)


PRMBENCH_ROW = {
    "id": "p1", "question": "q?", "original_steps": ["A.", "B.", "C."],
    "modified_steps_text": ["A.", "A again.", "B.", "C, edited."], "error_steps": [2, 4],
}  # fmt: skip


def write_prmbench(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "prm.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def read_prmbench(path: Path, redundant: Redundant) -> tuple[list[Trace], dict[str, int]]:
    """The usable traces, and the number of other rows by reason."""
    reader = RowReader(find_files(path, "truth.path"), PRMBENCH_FIELDS, strict=False, key="truth.path")
    return list(prmbench(reader, redundant)), dict(reader.dropped)


def kinds(path: Path, redundant: Redundant) -> list[list[tuple[str, str]]]:
    rows, _ = read_prmbench(path, redundant)
    return [[(t.thinking[s.start : s.end].strip(), s.kind) for s in t.spans] for t in rows]


def test_inserted_steps_are_the_difference_of_the_texts(tmp_path: Path) -> None:
    assert kinds(write_prmbench(tmp_path, PRMBENCH_ROW), Redundant.inserted) == [
        [("A.", "original"), ("A again.", "inserted"), ("B.", "original"), ("C, edited.", "edited")]
    ]


def test_annotation_counts_from_one(tmp_path: Path) -> None:
    assert kinds(write_prmbench(tmp_path, PRMBENCH_ROW), Redundant.error_steps) == [
        [("A.", "original"), ("A again.", "inserted"), ("B.", "original"), ("C, edited.", "inserted")]
    ]


def test_steps_cover_the_thinking_and_only_inserted_ones_are_not_essential(tmp_path: Path) -> None:
    (trace,), _ = read_prmbench(write_prmbench(tmp_path, PRMBENCH_ROW), Redundant.inserted)
    assert trace.thinking == "A.\nA again.\nB.\nC, edited."
    assert [s.start for s in trace.spans] == [0, *(s.end for s in trace.spans[:-1])]
    assert trace.spans[-1].end == len(trace.thinking)
    assert [s.essential for s in trace.spans] == [True, False, True, True]


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("AB", "AAB", "oio"),
        ("AB", "ABA", "ooi"),
        ("ABC", "ABABC", "ooiio"),
        ("ABC", "ABCBC", "oooii"),
        ("AAB", "AAAB", "ooio"),
        ("ABAC", "ABAAC", "oooio"),
        ("ABC", "AXBC", "oioo"),
        ("ABC", "AXC", "oeo"),
        ("ABC", "AXBBYC", "oioiio"),
        ("AB", "XAB", "ioo"),
        ("AB", "ABX", "ooi"),
        ("AB", "A", "o"),
        ("AB", "XY", "ee"),
        ("", "A", "i"),
        ("AB", "BA", "oi"),
    ],
)
def test_first_copy_of_a_repeated_step_is_the_original_and_later_ones_are_inserted(
    before: str, after: str, kinds: str
) -> None:
    assert "".join(kind[0] for kind in differing(list(before), list(after))) == kinds


@given(st.text("AB", max_size=7), st.text("ABC", max_size=7))
def test_original_steps_are_a_subsequence_of_the_solution_before(before: str, after: str) -> None:
    kept = iter(before)
    original = [step for step, kind in zip(after, differing(before, after), strict=True) if kind == "original"]
    assert all(step in kept for step in original)


def test_rows_without_an_inserted_step_are_told_with_their_reasons(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**PRMBENCH_ROW, "id": i, "modified_steps_text": ["A.", "B!", "C."]} for i in range(1, 20)]
    config = PrmbenchConfig(name="prmbench", path=str(write_prmbench(tmp_path, PRMBENCH_ROW, *rows)))
    with caplog.at_level(logging.INFO):
        artifact = truth(config, store)
    (told,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert told.getMessage() == (
        "truth=prmbench: 1 of 20 rows are used; 19 lost: 19 x no inserted step (first: line 2); "
        "truth.strict=true stops at the first one"
    )
    assert artifact.facts["first_dropped"] == {"no inserted step": "line 2"}
    with pytest.raises(DataError, match=r"line 2: no inserted step.*truth\.strict=false"):
        truth(dataclasses.replace(config, strict=True), store)


def test_too_many_steps_to_align_are_dropped(tmp_path: Path) -> None:
    many = {**PRMBENCH_ROW, "id": "p2", "modified_steps_text": ["A."] * 2001}
    _, dropped = read_prmbench(write_prmbench(tmp_path, PRMBENCH_ROW, many), Redundant.inserted)
    assert dropped == {"over 2000 steps": 1}


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
def test_bad_prmbench_rows_are_counted_by_reason(
    tmp_path: Path, change: dict[str, Any], redundant: Redundant, reason: str
) -> None:
    path = write_prmbench(tmp_path, PRMBENCH_ROW, {**PRMBENCH_ROW, "id": "p2", **change})
    rows, dropped = read_prmbench(path, redundant)
    assert [t.id for t in rows] == ["p1"]
    assert dropped == {reason: 1}


KL = Importance.counterfactual_importance_kl


def chunk(text: str, value: Any = 0.5) -> dict[str, Any]:
    return {"chunk": text, "counterfactual_importance_kl": value, "resampling_importance_kl": 9.0}


def anchor_row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "a", "question": "q?", "answer": "3", "solution": "First.\n\n1 + 2\n= 3.</think>\nIt is 3.",
        "chunks": [chunk("First.", 0.25), chunk("1 + 2 = 3.", 2)], **changes,
    }  # fmt: skip


def write_anchors(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "anchors.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def read_anchors(path: Path, importance: Importance = KL) -> tuple[list[Measured], dict[str, int]]:
    """The usable traces with their sentences, and the number of other rows by reason."""
    reader = RowReader(find_files(path, "truth.path"), ANCHOR_FIELDS, strict=False, key="truth.path")
    return list(thought_anchors(reader, importance)), dict(reader.dropped)


def test_sentences_are_located_in_the_original_text(tmp_path: Path) -> None:
    ((trace, sentences),), _ = read_anchors(write_anchors(tmp_path, anchor_row()))
    assert trace.thinking == "First.\n\n1 + 2\n= 3."
    assert trace.response == "It is 3."
    assert [(trace.thinking[s.start : s.end], s.importance) for s in sentences] == [
        ("First.", 0.25), ("1 + 2\n= 3.", 2.0),
    ]  # fmt: skip


def test_measure_follows_the_setting(tmp_path: Path) -> None:
    path = write_anchors(tmp_path, anchor_row())
    ((_, sentences),), _ = read_anchors(path, Importance.resampling_importance_kl)
    assert [s.importance for s in sentences] == [9.0, 9.0]


@pytest.mark.parametrize(
    "layout",
    ["<think>\n{}\n</think>\n\n{}", "[THINK]{}[/THINK]{}", "<|channel|>analysis<|message|>{}<|end|>"
     "<|channel|>final<|message|>{}<|return|>"],
)  # fmt: skip
def test_tags_around_the_thinking_of_a_solution_are_no_part_of_it(tmp_path: Path, layout: str) -> None:
    solution = layout.format("First.\n\n1 + 2\n= 3.", "It is 3.")
    plain, _ = read_anchors(write_anchors(tmp_path, anchor_row()))
    assert read_anchors(write_anchors(tmp_path, anchor_row(solution=solution))) == (plain, {})


def test_truths_with_tags_that_cannot_be_removed_are_dropped(store: ArtifactStore, tmp_path: Path) -> None:
    anchors = write_anchors(
        tmp_path, anchor_row(), anchor_row(id="b", solution="<think>First. 1 + 2 = 3."),
        anchor_row(id="c", chunks=[chunk("<think>First.")]),
    )  # fmt: skip
    steps = ["<think>A.", "A again.", "B.", "C, edited.</think>"]
    prm = write_prmbench(
        tmp_path, PRMBENCH_ROW, {**PRMBENCH_ROW, "id": "p2", "original_steps": steps[:1], "modified_steps_text": steps}
    )
    for config, expected in (
        (ThoughtAnchorsConfig(name="t", path=str(anchors)), {
            "thinking is not closed": ("line 2", 1), "a chunk that is not in the thinking": ("line 3", 1),
        }),
        (PrmbenchConfig(name="p", path=str(prm)), {"thinking tags in a labelled thinking": ("line 2", 1)}),
    ):  # fmt: skip
        artifact = truth(config, store)
        assert artifact.manifest["num_rows"] == 1
        assert artifact.manifest["dropped"] == {reason: number for reason, (_, number) in expected.items()}
        assert artifact.facts["first_dropped"] == {reason: place for reason, (place, _) in expected.items()}
        assert "<think>" not in str(read_records(artifact.file("traces.parquet"), Trace))
        with pytest.raises(DataError, match=r"line 2.*Fix: correct the row, or drop .* truth\.strict=false"):
            truth(dataclasses.replace(config, strict=True), store)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (anchor_row(id="b", chunks=[]), "empty chunks"),
        (anchor_row(id="b", chunks="First."), "wrong type of 'chunks'"),
        (anchor_row(id="b", chunks=["First."]), "a chunk without text"),
        (anchor_row(id="b", chunks=[chunk("First.", None)]), "a chunk without counterfactual_importance_kl"),
        (anchor_row(id="b", chunks=[chunk("First.", float("nan"))]), "a chunk without counterfactual_importance_kl"),
        (anchor_row(id="b", chunks=[chunk("First.", 10**400)]), "a chunk without counterfactual_importance_kl"),
        (anchor_row(id="b", chunks=[chunk("Second.")]), "a chunk that is not in the thinking"),
        (anchor_row(id="b", chunks=[chunk("1 + 2"), chunk("First.")]), "a chunk that is not in the thinking"),
        (anchor_row(id="b", solution=" "), "empty solution"),
        ({"id": "b"}, "missing field 'question'"),
    ],
)
def test_bad_anchor_rows_are_counted_by_reason(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    rows, dropped = read_anchors(write_anchors(tmp_path, anchor_row(), bad))
    assert [trace.id for trace, _ in rows] == ["a"]
    assert dropped == {reason: 1}


def test_missing_file_is_explained(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"truth\.path: .*does not exist"):
        truth(ThoughtAnchorsConfig(name="thought_anchors", path=str(tmp_path / "none.jsonl")), store)


@given(st.lists(st.text("ab \n", max_size=6), max_size=6), st.lists(st.sampled_from([" ", "\n\n", ""]), max_size=6))
def test_pieces_of_a_text_are_located_in_order(pieces: list[str], gaps: list[str]) -> None:
    text = "".join(p + g for p, g in zip(pieces, [*gaps, *[""] * len(pieces)], strict=False))
    ranges = locate(text, pieces)
    assert ranges is not None
    for piece, (start, end) in zip(pieces, ranges, strict=True):
        assert text[start:end].split() == piece.split() or "".join(text[start:end].split()) == "".join(piece.split())
    filled = [r for r in ranges if r[0] < r[1]]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(filled))
