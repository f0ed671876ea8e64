from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cotpress.errors import ArtifactError
from cotpress.records import CompressedTrace, Problem, ScoredTrace, Span, Trace, ValuableTrace
from cotpress.store import tables
from cotpress.store.tables import (
    RecordWriter,
    from_table,
    iter_records,
    read_records,
    schema,
    to_table,
    write_records,
)

TRACE = Trace(
    id="a",
    question="1 + 1?",
    thinking="é🙂 2",
    response="",
    answer="2",
    spans=(
        Span(start=0, end=2, kind="hesitation", essential=False),
        Span(start=2, end=4, kind="result", essential=True),
    ),
)


def test_traces_with_labels_and_unicode_are_read_back_equal(tmp_path: Path) -> None:
    bare = Trace(id="b", question="q", thinking="t", response="r", answer="")
    write_records(tmp_path / "t.parquet", [TRACE, bare], Trace)
    assert read_records(tmp_path / "t.parquet", Trace) == [TRACE, bare]


def test_scored_traces_are_read_back_with_their_array_types(tmp_path: Path) -> None:
    scored = [
        ScoredTrace(
            id=str(n),
            token_ids=np.arange(n, dtype=np.int32),
            offsets=np.stack([np.arange(n), np.arange(n) + 1], axis=1).astype(np.int32),
            scores=np.linspace(-1, 1, n, dtype=np.float32),
            tokenizer="tok",
            scorer="cts",
        )
        for n in (3, 0, 5)
    ]
    write_records(tmp_path / "s.parquet", scored, ScoredTrace)
    back = read_records(tmp_path / "s.parquet", ScoredTrace)
    for expected, actual in zip(scored, back, strict=True):
        assert (actual.offsets.dtype, actual.scores.dtype, actual.token_ids.dtype) == (np.int32, np.float32, np.int32)
        np.testing.assert_array_equal(expected.token_ids, actual.token_ids)
        np.testing.assert_array_equal(expected.offsets, actual.offsets)
        np.testing.assert_array_equal(expected.scores, actual.scores)


def test_compressed_traces_keep_mask_and_missing_marker(tmp_path: Path) -> None:
    row = CompressedTrace(
        id="a", question="q", compressed_thinking="t", response="r", answer="1", split="train",
        token_ids=np.array([5, 7], dtype=np.int32), keep_mask=np.array([True, False, True]),
        num_tokens=3, num_kept_tokens=2, target_ratio=0.7, actual_ratio=2 / 3,
    )  # fmt: skip
    write_records(tmp_path / "c.parquet", [row], CompressedTrace)
    (back,) = read_records(tmp_path / "c.parquet", CompressedTrace)
    assert back.marker_ratio is None
    assert back.keep_mask.tolist() == [True, False, True]
    assert back.token_ids.tolist() == [5, 7]


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_records(tmp_path / name, [TRACE], Trace)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_valuable_ranges_are_read_back(tmp_path: Path) -> None:
    row = ValuableTrace(id="a", question="q", thinking="abcdef", response="", answer="", valuable=((0, 2), (4, 6)))
    write_records(tmp_path / "v.parquet", [row], ValuableTrace)
    (back,) = read_records(tmp_path / "v.parquet", ValuableTrace)
    assert [tuple(map(int, pair)) for pair in back.valuable] == [(0, 2), (4, 6)]


def test_wrong_columns_and_wrong_files_are_errors(tmp_path: Path) -> None:
    write_records(tmp_path / "t.parquet", [TRACE], Trace)
    with pytest.raises(ArtifactError, match="has columns"):
        read_records(tmp_path / "t.parquet", Problem)
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_records(tmp_path / "x.parquet", Trace)


def scored(num: int) -> list[ScoredTrace]:
    return [
        ScoredTrace(
            id=f"é{n}", token_ids=np.arange(n, dtype=np.int32), offsets=np.full((n, 2), n, dtype=np.int32),
            scores=np.full(n, n, dtype=np.float32), tokenizer="tok", scorer="cts",
        )
        for n in range(num)
    ]  # fmt: skip


def test_chunked_and_sliced_tables_give_the_same_records() -> None:
    rows = scored(9)
    pieces = [to_table(rows[a:b], ScoredTrace) for a, b in ((0, 4), (4, 4), (4, 9))]
    back = from_table(pa.concat_tables(pieces).slice(2, 6), ScoredTrace)
    assert [r.id for r in back] == [r.id for r in rows[2:8]]
    for expected, actual in zip(rows[2:8], back, strict=True):
        np.testing.assert_array_equal(expected.token_ids, actual.token_ids)
        np.testing.assert_array_equal(expected.offsets, actual.offsets)
        np.testing.assert_array_equal(expected.scores, actual.scores)


def test_column_beyond_32_bit_offsets_is_read() -> None:
    """A column of 2.2 billion values in chunks that share one array of zeros, so that it takes little memory."""
    num_values, num_chunks = 100_000_000, 22
    zeros = pa.array(np.zeros(num_values, dtype=np.float32))
    big = pa.ListArray.from_arrays(pa.array([0, num_values], pa.int32()), zeros)
    columns = {name: pa.chunked_array([to_table(scored(1), ScoredTrace)[name].chunk(0)] * num_chunks)
               for name in schema(ScoredTrace).names if name != "scores"}  # fmt: skip
    table = pa.table({**columns, "scores": pa.chunked_array([big] * num_chunks)}).select(schema(ScoredTrace).names)
    assert [len(row.scores) for row in from_table(table, ScoredTrace)] == [num_values] * num_chunks


def test_small_file_written_in_pieces_equals_the_one_that_is_written_at_once(tmp_path: Path) -> None:
    rows = [replace(TRACE, id=str(n)) for n in range(300)]
    write_records(tmp_path / "whole", rows, Trace)
    with RecordWriter(tmp_path / "pieces", Trace) as writer:
        writer.write(iter(rows[:7]))
        writer.write(rows[7:])
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


def test_long_file_has_several_row_groups_and_is_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 10_000)
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 16)
    rows = [replace(TRACE, id=str(n), thinking="x" * n) for n in range(300)]
    with RecordWriter(tmp_path / "t.parquet", Trace) as writer:
        writer.write(rows)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups > 3
    assert list(iter_records(tmp_path / "t.parquet", Trace)) == rows


def test_streamed_file_with_wrong_columns_or_content_is_an_error(tmp_path: Path) -> None:
    write_records(tmp_path / "t.parquet", [replace(TRACE, thinking=str(n)) for n in range(300)], Trace)
    with pytest.raises(ArtifactError, match="has columns"):
        list(iter_records(tmp_path / "t.parquet", Problem))
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[60] ^= 1  # inside the first page
    (tmp_path / "t.parquet").write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="cannot be read"):
        list(iter_records(tmp_path / "t.parquet", Trace))
