import re
from pathlib import Path
from typing import Any

import pytest

from cotpress.data.config import (
    PlantedDataConfig,
    PlantedTruthConfig,
    PrmbenchConfig,
    Redundant,
    ThoughtAnchorsConfig,
    TruthConfig,
)
from cotpress.data.stage import traces
from cotpress.data.truth import truth
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


@pytest.mark.parametrize(
    ("change", "key"), [({"limit": 0}, "truth.limit"), ({"redundancy": -1.0}, "truth.redundancy"),
                        ({"families": ["buss"]}, "truth.families"), ({"num_traces": 0}, "truth.num_traces")],
)  # fmt: skip
def test_wrong_values_name_their_key(store: ArtifactStore, change: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        truth(planted(**change), store)


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
