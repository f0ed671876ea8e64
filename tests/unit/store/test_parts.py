import errno
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.errors import ArtifactError, UnreadableError
from cotpress.records import ScoredTrace, Trace
from cotpress.store import parts as module
from cotpress.store import tables
from cotpress.store.parts import Parts, Tally, plan_chunks, read_chunks, rows_of
from cotpress.store.tables import read_records, write_records


def trace(number, length, split="train"):
    return Trace(id=f"t{number}", question="q", thinking="x" * length, response="r", answer="a", split=split)


def scored(trace):
    n = len(trace.thinking)
    return ScoredTrace(
        id=trace.id, token_ids=np.arange(n, dtype=np.int32), offsets=np.zeros((n, 2), dtype=np.int32),
        scores=np.ones(n, dtype=np.float32), tokenizer="k", scorer="s",
    )  # fmt: skip


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 10)
    return [trace(i, 4, "validation" if i % 4 == 3 else "train") for i in range(12)]


@pytest.fixture
def parts(tmp_path, rows):
    write_records(tmp_path / "traces.parquet", rows, Trace)
    (tmp_path / "scratch").mkdir()
    return Parts(tmp_path / "traces.parquet", tmp_path / "scratch", ScoredTrace)


def write_all(parts, chunks, refuse=()):
    for chunk, traces in read_chunks(parts.traces, chunks):
        kept = [t for t in traces if t.id not in refuse]
        tally = Tally(num_traces=len(traces), num_tokens=sum(len(t.thinking) for t in kept))
        if len(kept) < len(traces):
            tally.dropped["refused"] = len(traces) - len(kept)
        parts.write(chunk, [scored(t) for t in kept], tally)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30),
    limit=st.integers(1, 30),
    at_once=st.integers(1, 7),
    stride=st.integers(1, 4),
    data=st.data(),
)
def test_chunks_hold_every_training_trace_once_in_order(tmp_path_factory, lengths, limit, at_once, stride, data):
    rows = [trace(i, n, "train" if train else "validation") for i, (n, train) in enumerate(lengths)]
    path = tmp_path_factory.mktemp("chunks") / "traces.parquet"
    write_records(path, rows, Trace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_CHARACTERS", limit)
        patch.setattr(tables, "ROWS_AT_ONCE", at_once)
        chunks = plan_chunks(path)
        first = data.draw(st.integers(0, stride - 1))
        own = dict(read_chunks(path, chunks[first::stride]))
        everything = [t for _, traces in read_chunks(path, chunks) for t in traces]
    shutil.rmtree(path.parent)
    assert everything == [t for t in rows if t.split == "train"]
    assert all(sum(len(t.thinking) for t in traces) == chunk.num_characters for chunk, traces in own.items())
    for chunk, traces in own.items():
        assert traces == everything[chunk.first : chunk.first + chunk.num_traces]


def test_merged_parts_are_the_scores_in_the_order_of_the_traces_whoever_wrote_them_when(parts, rows, tmp_path):
    chunks = plan_chunks(parts.traces)
    assert len(chunks) == 3
    for chunk in chunks[::-1]:
        write_all(parts, [chunk], refuse={"t1"})
    tally = parts.merge(chunks, tmp_path / "scores.parquet")
    ids = [r.id for r in read_records(tmp_path / "scores.parquet", ScoredTrace)]
    assert ids == [t.id for t in rows if t.split == "train" and t.id != "t1"]
    assert (len(ids), tally.num_traces, tally.num_tokens) == (8, 9, 32)
    assert tally.dropped == {"refused": 1}


def test_chunk_of_which_every_trace_is_dropped_is_done(parts, tmp_path):
    chunks = plan_chunks(parts.traces)
    write_all(parts, chunks, refuse={"t0", "t1", "t2"})
    assert parts.missing(chunks) == []
    tally = parts.merge(chunks, tmp_path / "scores.parquet")
    assert (tally.num_traces, tally.dropped) == (9, {"refused": 3})
    assert len(read_records(tmp_path / "scores.parquet", ScoredTrace)) == 6
    assert pq.ParquetFile(tmp_path / "scores.parquet").num_row_groups == 1


def test_part_that_is_missing_or_damaged_is_computed_again(parts, tmp_path, caplog):
    chunks = plan_chunks(parts.traces)
    write_all(parts, chunks)
    assert parts.missing(chunks) == []
    parts.path(chunks[0]).unlink()
    whole = parts.path(chunks[1]).read_bytes()
    parts.path(chunks[1]).write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(parts.path(chunks[2]).read_bytes())
    flipped[30] ^= 1  # inside the first page
    parts.path(chunks[2]).write_bytes(bytes(flipped))
    assert parts.missing(chunks) == chunks
    assert caplog.text.count("it is computed again") == 2
    with pytest.raises(ArtifactError, match=r"part-00000.parquet' cannot be read"):
        parts.merge(chunks, tmp_path / "scores.parquet")


@pytest.mark.parametrize("wrong", ["twice", "lacking", "other", "order", "neighbour"])
def test_part_that_does_not_hold_each_trace_once_is_refused(parts, tmp_path, wrong):
    chunks = plan_chunks(parts.traces)
    write_all(parts, chunks)
    [(chunk, traces), (_, following), _] = read_chunks(parts.traces, chunks)
    held = {
        "twice": [traces[0], traces[0], traces[2]],
        "lacking": traces[:2],
        "other": [*traces[:2], replace(traces[2], id="t99")],
        "order": traces[::-1],
        "neighbour": following,
    }[wrong]
    parts.write(chunk, [scored(t) for t in held], Tally(num_traces=3))
    with pytest.raises(ArtifactError, match="does not hold each of its 3 traces exactly once"):
        parts.merge(chunks, tmp_path / "scores.parquet")
    assert parts.missing(chunks) == [chunk]


def test_part_that_cannot_be_read_is_told_and_not_computed_again(parts, monkeypatch):
    chunks = plan_chunks(parts.traces)
    write_all(parts, chunks)

    def fails(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.pq, "read_table", fails)
    with pytest.raises(UnreadableError, match=r"part-00000\.parquet' cannot be read: Input/output error"):
        parts.missing(chunks)


def test_rows_of_chunks_are_none_for_traces_without_one(parts, rows):
    chunks = plan_chunks(parts.traces)
    write_all(parts, chunks[1:], refuse={"t4"})
    ids = [[None if row is None else row.id for row in of_chunk] for of_chunk in parts.rows(chunks[1:])]
    assert ids == [[None, "t5", "t6"], ["t8", "t9", "t10"]]
    with pytest.raises(ArtifactError, match=r"part-00000.parquet' cannot be read"):
        next(parts.rows(chunks))


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 1, 99)], ids=["order", "other trace"])
def test_rows_that_do_not_follow_the_traces_are_refused(parts, tmp_path, order):
    write_records(tmp_path / "scores.parquet", [scored(trace(i, 4)) for i in order], ScoredTrace)
    with pytest.raises(ArtifactError, match=r"the row 't(1|99)' belongs to no training trace .* Fix: remove the"):
        list(rows_of(tmp_path / "scores.parquet", ScoredTrace, parts.traces))
