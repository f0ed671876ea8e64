"""Any file as training data gives an artifact or a message, and every row is kept or counted."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from cotpress.data.config import JsonlBenchmarkConfig, JsonlDataConfig
from cotpress.data.stage import problems, traces
from cotpress.errors import CotpressError
from cotpress.records import Problem, Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from fuzz.cases import any_text, assert_is_message, cases, odd_text

NAMES = ("id", "question", "thinking", "response", "answer")
scalars = st.one_of(any_text, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=4).map(repr))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=2))
good_rows = st.fixed_dictionaries(dict.fromkeys(NAMES, odd_text))
bad_rows = st.dictionaries(st.one_of(st.sampled_from(NAMES), odd_text), values, max_size=7)
rows = st.one_of(good_rows, bad_rows, st.builds(lambda a, b: {**a, **b}, good_rows, bad_rows))
lines = st.one_of(
    rows.map(lambda row: json.dumps(row).encode()),
    good_rows.map(lambda row: json.dumps(row, ensure_ascii=False).encode("utf-16" if "x" in row["id"] else "utf-8")),
    values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    st.sampled_from([b"", b"   ", b"{", b"[" * 3000, b'{"id": 1e400}', b"\xef\xbb\xbf{}", b'{"id":"a","id":"b"}']),
)


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    try:
        yield made
    finally:
        shutil.rmtree(made)


def check_counts(path: Path, num_rows: int, strict: bool) -> None:
    """Check the data and the benchmark stage on a file of `num_rows` rows."""
    store = ArtifactStore(path.parent)
    config = JsonlDataConfig(name="jsonl", path=str(path), strict=strict, validation_fraction=0.0)
    try:
        made = traces(config, store)
    except CotpressError as error:
        assert_is_message(str(error))
    else:
        kept = read_records(made.file("traces.parquet"), Trace)
        assert made.manifest["num_rows"] == len(kept)
        assert len(kept) + sum(made.manifest["dropped"].values()) == num_rows
        assert len({t.id for t in kept}) == len(kept)
        assert all(t.thinking.strip() and t.question.strip() for t in kept)
        assert not (strict and made.manifest["dropped"])
    try:
        benchmark = problems(JsonlBenchmarkConfig(name="b", path=str(path), max_new_tokens=1), store)
    except CotpressError as error:
        assert_is_message(str(error))
    else:
        questions = read_records(benchmark.file("problems.parquet"), Problem)
        assert len(questions) + sum(benchmark.manifest["dropped"].values()) == num_rows


@cases(40)
@given(st.lists(lines, max_size=8), st.booleans())
def test_no_line_of_a_jsonl_file_is_lost(content: list[bytes], strict: bool) -> None:
    with folder() as place:
        path = place / "rows.jsonl"
        path.write_bytes(b"\n".join(content))
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        check_counts(path, sum(bool(line.strip()) for line in text.split(b"\n")), strict)


columns = st.one_of(
    st.lists(odd_text, min_size=4, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4),
    st.lists(st.floats(), min_size=4, max_size=4),
    st.lists(st.binary(max_size=5), min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), odd_text), min_size=4, max_size=4),
    st.lists(st.lists(odd_text, max_size=2), min_size=4, max_size=4),
)


@cases(25)
@given(st.dictionaries(st.one_of(st.sampled_from(NAMES), odd_text), columns, max_size=7), st.booleans())
def test_no_row_of_a_parquet_file_is_lost(content: dict[str, list[Any]], strict: bool) -> None:
    with folder() as place:
        path = place / "rows.parquet"
        table = pa.table({name: pa.array(cells) for name, cells in content.items()})
        pq.write_table(table, path)
        check_counts(path, pq.read_metadata(path).num_rows, strict)


@cases(15)
@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".parquet", ".json", ".JSONL", ""]))
def test_any_bytes_are_a_message_or_rows(content: bytes, suffix: str) -> None:
    with folder() as place:
        path = place / f"rows{suffix}"
        path.write_bytes(content)
        try:
            traces(JsonlDataConfig(name="jsonl", path=str(path), validation_fraction=0.0), ArtifactStore(place))
        except CotpressError as error:
            assert_is_message(str(error))
