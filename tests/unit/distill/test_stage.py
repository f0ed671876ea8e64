from pathlib import Path

import pytest

from cotpress.distill.config import DistillConfig, Extractor
from cotpress.distill.stage import distill
from cotpress.errors import ConfigError, DataError
from cotpress.records import Span, Trace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records

THINKING = "Okay. 8 - 3 = 5. Good."
LABELS = (
    Span(start=0, end=5, kind="hesitation", essential=False),
    Span(start=5, end=9, kind="operand", essential=True),
    Span(start=9, end=15, kind="result", essential=True),
    Span(start=15, end=22, kind="connective", essential=False),
)


def trace(id_: str, *, spans: tuple[Span, ...] = (), response: str = "8 - 3 = 5", split: str = "train") -> Trace:
    return Trace(id=id_, question="q", thinking=THINKING, response=response, answer="5", split=split, spans=spans)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def data(store: ArtifactStore, *traces: Trace) -> Artifact:
    def produce(folder: Path) -> Summary:
        write_records(folder / "traces.parquet", traces, Trace)
        return Summary(num_rows=len(traces))

    return store.build("data", {"ids": [t.id for t in traces]}, produce)


def valuable(artifact: Artifact) -> dict[str, list[str]]:
    rows = read_records(artifact.file("valuable.parquet"), ValuableTrace)
    return {row.id: [row.thinking[start:end] for start, end in row.valuable] for row in rows}


def test_labels_give_the_essential_text_of_training_traces_only(store: ArtifactStore) -> None:
    traces = data(store, trace("a", spans=LABELS), trace("b", spans=LABELS, split="validation"))
    artifact = distill(DistillConfig(), traces, store)
    assert valuable(artifact) == {"a": [" 8 - 3 = 5"]}
    assert artifact.facts == {"valuable_fraction": round(10 / 22, 4)}


def test_overlap_gives_the_steps_of_the_response(store: ArtifactStore) -> None:
    artifact = distill(DistillConfig(extractor=Extractor.overlap), data(store, trace("a")), store)
    assert valuable(artifact) == {"a": [" 8 - 3 = 5."]}


def test_traces_without_a_valuable_part_are_dropped_and_counted(store: ArtifactStore) -> None:
    traces = data(store, trace("a", spans=LABELS), trace("b", spans=LABELS[:1]))
    artifact = distill(DistillConfig(), traces, store)
    assert list(valuable(artifact)) == ["a"]
    assert artifact.manifest["dropped"] == {"no valuable part": 1}


def test_labels_without_labelled_data_names_the_other_extractor(store: ArtifactStore) -> None:
    with pytest.raises(DataError, match=r"Fix: distill=overlap"):
        distill(DistillConfig(), data(store, trace("a")), store)


def test_overlap_without_responses_is_an_error(store: ArtifactStore) -> None:
    with pytest.raises(DataError, match="every response is empty"):
        distill(DistillConfig(extractor=Extractor.overlap), data(store, trace("a", response="")), store)


def test_nothing_valuable_at_all_is_an_error_that_names_the_threshold(store: ArtifactStore) -> None:
    with pytest.raises(DataError, match=r"lower distill\.min_overlap, got 0\.5"):
        distill(DistillConfig(extractor=Extractor.overlap), data(store, trace("a", response="other words")), store)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_min_overlap_out_of_range_is_refused(store: ArtifactStore, share: float) -> None:
    with pytest.raises(ConfigError, match=r"distill\.min_overlap: got .*, allowed: a number in \(0, 1\]"):
        distill(DistillConfig(extractor=Extractor.overlap, min_overlap=share), data(store, trace("a")), store)


def test_min_overlap_is_part_of_the_identity_only_where_it_is_used(store: ArtifactStore) -> None:
    traces = data(store, trace("a", spans=LABELS))
    labels = [distill(DistillConfig(min_overlap=share), traces, store).key for share in (0.4, 0.5)]
    overlap = [
        distill(DistillConfig(extractor=Extractor.overlap, min_overlap=share), traces, store).key
        for share in (0.4, 0.5)
    ]
    assert labels[0] == labels[1]
    assert len({*labels, *overlap}) == 3
