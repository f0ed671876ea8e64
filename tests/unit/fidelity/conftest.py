from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.records import ScoredTrace, SentenceImportance, Trace, TruthKind
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import write_records


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def tokenizer(store: ArtifactStore) -> Any:
    return load_tokenizer(ModelConfig(name="tiny", source=ModelSource.tiny, path="llama"), store)


@pytest.fixture
def make_truth(tmp_path: Path) -> Callable[..., Artifact]:
    def build(kind: TruthKind, traces: list[Trace], sentences: list[SentenceImportance] | None = None) -> Artifact:
        def produce(folder: Path) -> Summary:
            write_records(folder / "traces.parquet", traces, Trace)
            write_records(folder / "importance.parquet", sentences or [], SentenceImportance)
            return Summary(num_rows=len(traces), facts={"kind": kind.value})

        return ArtifactStore(tmp_path).build("truth", {"kind": kind}, produce)

    return build


@pytest.fixture
def make_scores(tmp_path: Path, tokenizer: Any) -> Callable[..., Artifact]:
    """Build scores by a function of `(trace, offsets)`, with `characters` in tokens of single characters."""

    def build(
        traces: list[Trace],
        values: Callable[[Trace, np.ndarray], Any],
        *,
        characters: bool = False,
        dropped: dict[str, int] | None = None,
        name: str = "x",
    ) -> Artifact:
        rows = []
        for trace in traces:
            ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
            if characters:
                ids = np.arange(len(trace.thinking), dtype=np.int32)
                offsets = np.stack([ids, ids + 1], axis=1)
            scores = np.asarray(values(trace, offsets), dtype=np.float32)
            key = "characters" if characters else tokenizer_fingerprint(tokenizer)
            row = ScoredTrace(id=trace.id, token_ids=ids, offsets=offsets, scores=scores, tokenizer=key, scorer=name)
            rows.append(row)

        def produce(folder: Path) -> Summary:
            write_records(folder / "scores.parquet", rows, ScoredTrace)
            return Summary(num_rows=len(rows), dropped=dropped or {})

        return ArtifactStore(tmp_path).build("score", {"name": name, "characters": characters}, produce)

    return build
