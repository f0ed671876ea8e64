"""Aggregates of experiments/real_traces when scorers refuse different traces."""

from pathlib import Path

import numpy as np
import pytest

from cotpress.modeling.selection import RankedTrace
from cotpress.records import Trace
from cotpress.store.tables import write_records
from experiments.real_traces.tables import Cut, _deletions

TEXTS = {"a": "12 + 3", "b": "so 15", "c": "wait 9"}


def _cut(scorer: str, ids: str, traces: Path) -> Cut:
    ranks = {}
    for i in ids:
        n = len(TEXTS[i])
        offsets = np.array([[at, at + 1] for at in range(n)], dtype=np.int32)
        places = np.arange(n, dtype=np.int32)
        ranks[i] = RankedTrace(id=i, offsets=offsets, scores=-places.astype(np.float32), places=places, num_held=0)
    return Cut(
        scorer=scorer, ratio=0.5, rows=[], ranks=ranks, traces=traces, scores=f"score/{scorer}", num_tokens=1,
        seconds=1.0,
    )  # fmt: skip


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    rows = [Trace(id=i, question="q", thinking=text, response="r", answer="1") for i, text in TEXTS.items()]
    write_records(tmp_path / "traces.parquet", rows, Trace)
    return tmp_path / "traces.parquet"


def test_deletions_are_counted_over_traces_that_all_scorers_scored(
    traces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, *rows = _deletions([_cut("cts", "abc", traces), _cut("gogi", "cb", traces)])
    assert "1 traces are left out" in caplog.text
    tokens = {scorer: sum(row[3] for row in rows if row[0] == scorer) for scorer in ("cts", "gogi")}
    assert tokens == dict.fromkeys(("cts", "gogi"), len(TEXTS["b"]) + len(TEXTS["c"]))
    assert rows == list(_deletions([_cut("cts", "bc", traces), _cut("gogi", "bc", traces)]))[1:]


def test_no_warning_when_all_scorers_scored_all_traces(traces: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(_deletions([_cut("cts", "abc", traces), _cut("gogi", "abc", traces)]))
    assert not caplog.text


def test_no_common_trace_is_an_error(traces: Path) -> None:
    with pytest.raises(SystemExit, match="no trace was scored by all scorers, 3 by some"):
        list(_deletions([_cut("cts", "a", traces), _cut("gogi", "bc", traces)]))
