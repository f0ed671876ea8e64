from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotpress.compression.config import CompressionConfig
from cotpress.compression.stage import TOKEN_COLUMNS, compress, token_table
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.records import ScoredTrace, Trace, Unit
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import write_records

TEXTS = ("Okay. 3 apples and 4 apples are 7 apples.", "So 7 - 2 = 5.")


class Made:
    """Compress two traces, whose later tokens have higher scores, to half."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(folder)
        self.tokenizer: Any = load_tokenizer(ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny"), self.store)
        traces = [
            Trace(id=f"t{i}", question="?", thinking=text, response="", answer="") for i, text in enumerate(TEXTS)
        ]
        self.traces = self._artifact("data", "traces.parquet", traces, Trace)
        self.scores = self._artifact("score", "scores.parquet", [self._scored(t) for t in traces], ScoredTrace)
        self.compressed = self._compress(0.5, self.scores)
        self.whole = self._compress(1.0, None)

    def _artifact(self, stage: str, file: str, rows: list[Any], record: type) -> Artifact:
        def produce(folder: Path) -> Summary:
            write_records(folder / file, rows, record)
            return Summary(num_rows=len(rows))

        return self.store.build(stage, {}, produce)

    def _scored(self, trace: Trace) -> ScoredTrace:
        ids, offsets = tokenize_with_offsets(self.tokenizer, trace.thinking)
        scores = np.arange(len(ids), dtype=np.float32)
        key = tokenizer_fingerprint(self.tokenizer)
        return ScoredTrace(id=trace.id, token_ids=ids, offsets=offsets, scores=scores, tokenizer=key, scorer="x")

    def _compress(self, ratio: float, scores: Artifact | None) -> Artifact:
        return compress(
            CompressionConfig(granularity=Unit.token), ratio=ratio, seed=1, traces=self.traces, scores=scores,
            tokenizer=self.tokenizer, tokenizer_key=tokenizer_fingerprint(self.tokenizer), store=self.store,
        )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("outputs"))


def test_table_has_every_token_with_score_and_decision(made: Made) -> None:
    table = token_table(made.compressed, made.traces, made.scores, made.tokenizer, 1000)
    assert table.columns == TOKEN_COLUMNS
    for i, text in enumerate(TEXTS):
        rows = [dict(zip(TOKEN_COLUMNS, r, strict=True)) for r in table.rows if r[0] == f"t{i}"]
        assert "".join(r["token"] for r in rows).replace(" ", "") == text.replace(" ", "")
        assert [r["position"] for r in rows] == [r["score"] for r in rows] == list(range(len(rows)))
        kept = [r["kept"] for r in rows]
        assert kept == sorted(kept)  # later tokens matter more
        assert sum(kept) == round(0.5 * len(rows))
        assert {r["ratio"] for r in rows} == {0.5}


def test_table_respects_the_limit_and_has_no_scores_without_a_scorer(made: Made) -> None:
    table = token_table(made.whole, made.traces, None, made.tokenizer, 5)
    assert [(r[1], r[3], r[4]) for r in table.rows] == [(i, None, True) for i in range(5)]
