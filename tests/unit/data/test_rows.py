import json
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.data import files as files_module
from cotpress.data import rows as rows_module
from cotpress.data.files import Files, find_files
from cotpress.data.rows import PROBLEM_FIELDS, TRACE_FIELDS, BadRow, Field, RowReader, reasons, text_fields
from cotpress.errors import ConfigError, DataError

GOOD = {"id": "a", "question": "1 + 1?", "thinking": "It is 2.", "response": "2", "answer": "2"}


def line(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in {**GOOD, **changes}.items() if v is not ...}).encode()


def write(folder: Path, *lines: bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def found(path: Path) -> Files:
    return find_files(path, "data.path")


def reader(path: Path, *, strict: bool = False) -> RowReader:
    return RowReader(found(path), TRACE_FIELDS, strict=strict, key="data.path")


def test_good_rows_come_back_in_order_without_other_columns(tmp_path: Path) -> None:
    rows = reader(write(tmp_path, line(model="R1"), line(id="b", response="", answer="")))
    assert list(rows) == [GOOD, {**GOOD, "id": "b", "response": "", "answer": ""}]
    assert not rows.dropped


def test_whole_number_ids_become_text(tmp_path: Path) -> None:
    assert [row["id"] for row in reader(write(tmp_path, line(id=7), line(id=0)))] == ["7", "0"]


BAD = [
    (line(thinking=...), "missing field 'thinking'", "thinking"),
    (line(answer={"value": 2}), "wrong type of 'answer'", "answer"),
    (line(response=["2"]), "wrong type of 'response'", "response"),
    (line(id=None), "wrong type of 'id'", "id"),
    (line(answer=float("inf")), "wrong type of 'answer'", "answer"),
    (line(thinking=None), "wrong type of 'thinking'", "thinking"),
    (line(question=3), "wrong type of 'question'", "question"),
    (line(thinking=" \n"), "empty thinking", "thinking"),
    (line(id=""), "empty id", "id"),
    (line(id="good"), "duplicate id", "id"),
    (line(thinking="a\0b"), "NUL character in 'thinking'", "thinking"),
    (line(thinking="a\ud800b"), "lone surrogate in 'thinking'", "thinking"),
    (b'{"id": "\xff"}', "not UTF-8", None),
    (b'{"id": "x", ', "invalid JSON", None),
    (b"[" * 100_000, "invalid JSON", None),
    (b'{"id": ' + b"9" * 5000 + b"}", "invalid JSON", None),
    (b'["id"]', "not a JSON object", None),
]


@pytest.mark.parametrize(("bad", "reason", "field"), BAD, ids=[reason for _, reason, _ in BAD])
def test_bad_line_is_dropped_and_counted_by_reason(tmp_path: Path, bad: bytes, reason: str, field: str | None) -> None:
    rows = reader(write(tmp_path, line(id="good"), bad, line(id="last")))
    assert [row["id"] for row in rows] == ["good", "last"]
    assert dict(rows.dropped) == {reason: 1}


@pytest.mark.parametrize(("bad", "reason", "field"), BAD, ids=[reason for _, reason, _ in BAD])
def test_strict_names_file_line_field_got_and_allowed(
    tmp_path: Path, bad: bytes, reason: str, field: str | None
) -> None:
    path = write(tmp_path, line(id="good"), b"", bad)
    with pytest.raises(DataError) as caught:
        list(reader(path, strict=True))
    message = str(caught.value)
    assert f"'{path}', line 3" in message
    assert field is None or f"field '{field}'" in message
    assert reason in message
    assert "Got: " in message
    assert "Allowed: " in message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"), (0, "0"), (-3, "-3"), (0.5, "0.5"), (5.0, "5"), (-0.0, "0"), (1e-7, "1e-07"), (1e22, "1e+22"),
        (True, "true"), (False, "false"), (2**70, str(2**70)), ("07", "07"),
    ],
)  # fmt: skip
def test_numbers_and_truth_values_are_read_as_text(tmp_path: Path, value: Any, text: str) -> None:
    rows = reader(write(tmp_path, line(id=value, answer=value, response=value)), strict=True)
    assert list(rows) == [{**GOOD, "id": text, "answer": text, "response": text}]


@pytest.mark.parametrize("null", [None, float("nan")])
def test_null_is_empty_only_where_a_text_may_be_empty(tmp_path: Path, null: float | None) -> None:
    path = write(tmp_path, line(answer=null, response=null), *(line(**{name: null}) for name in ("id", "thinking")))
    rows = reader(path)
    assert list(rows) == [{**GOOD, "answer": "", "response": ""}]
    assert dict(rows.dropped) == {"wrong type of 'id'": 1, "wrong type of 'thinking'": 1}


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (pa.array([5, None]), ["5", ""]),
        (pa.array([5.0, None]), ["5", ""]),
        (pa.array([0.5, float("nan")]), ["0.5", ""]),
        (pa.array([True, None]), ["true", ""]),
        (pa.array([Decimal("1.50"), Decimal("100.00")]), ["1.5", "100"]),
        (pa.nulls(2), ["", ""]),
        (pa.array([18446744073709551615, 0], type=pa.uint64()), ["18446744073709551615", "0"]),
    ],
)
def test_parquet_numbers_are_read_as_text(tmp_path: Path, cells: pa.Array, texts: list[str]) -> None:
    rows = reader(parquet(tmp_path, **{**columns(), "answer": cells}), strict=True)
    assert [row["answer"] for row in rows] == texts


def test_first_place_of_every_reason_is_known(tmp_path: Path) -> None:
    rows = reader(write(tmp_path, line(), line(), b"", line(), line(id="b", thinking="")))
    assert len(list(rows)) == 1
    assert rows.first == {"duplicate id": "line 2", "empty thinking": "line 5"}
    assert reasons(rows.dropped, rows.first) == "2 x duplicate id (first: line 2), 1 x empty thinking (first: line 5)"


def test_text_over_the_limit_is_dropped_with_its_reason(tmp_path: Path) -> None:
    limit = rows_module.MAX_TEXT_BYTES
    long = [line(thinking="a" * (limit + 1)), line(id="b", response="\u00fc" * (limit // 2 + 1))]
    rows = reader(write(tmp_path, *long, line(id="c", thinking="a" * limit)))
    assert [row["id"] for row in rows] == ["c"]
    assert set(rows.dropped) == {f"text over {limit:,} bytes in '{name}'" for name in ("thinking", "response")}


def test_line_over_the_limit_is_skipped_without_reading_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "MAX_LINE_BYTES", 120)
    long = line(id="x", thinking="a" * 1000)
    rows = reader(write(tmp_path, long, line(id="b"), line(id="y", other="a" * 120), line(id="c", other="b")))
    assert [row["id"] for row in rows] == ["b", "c"]
    assert (dict(rows.dropped), rows.first) == ({"line too long": 2}, {"line too long": "line 1"})


def test_home_folder_and_special_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, line())
    assert len(list(reader(Path("~/rows.jsonl")))) == 1
    with pytest.raises(ConfigError, match=r"'~nobody-here/x\.jsonl' does not exist"):
        reader(Path("~nobody-here/x.jsonl"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ConfigError, match="is no regular file"):
        reader(tmp_path / "pipe.jsonl")


def test_blank_lines_and_byte_order_mark_are_ignored(tmp_path: Path) -> None:
    rows = reader(write(tmp_path, b"\xef\xbb\xbf" + line(), b"", b"  ", b"\xef\xbb\xbf" + line(id="b")))
    assert [row["id"] for row in rows] == ["a", "b"]
    assert not rows.dropped


def test_windows_line_ends_and_line_separators_inside_text_do_not_split_rows(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps({**GOOD, "thinking": text}, ensure_ascii=False).encode() + b"\r\n")
    assert [row["thinking"] for row in reader(path)] == [text]


def test_missing_file_names_files_with_similar_names(tmp_path: Path) -> None:
    write(tmp_path, line(), name="traces.jsonl")
    with pytest.raises(ConfigError, match=r"does not exist.*Did you mean 'traces.jsonl'\?"):
        reader(tmp_path / "trace.jsonl")


def test_folder_without_a_file_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder without a file that ends in"):
        reader(tmp_path)


def test_another_suffix_is_refused_with_the_allowed_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"allowed: a file that ends in \.jsonl, .*\.csv .*or \.parquet"):
        reader(write(tmp_path, line(), name="rows.txt"))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        list(reader(write(tmp_path)))


def test_file_without_a_usable_row_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable row among 2 .*1 x empty thinking"):
        list(reader(write(tmp_path, line(thinking=""), b"nonsense")))


def test_file_of_questions_without_answers_names_the_setting_for_them(tmp_path: Path) -> None:
    rows = RowReader(
        found(write(tmp_path, b'{"id": "1", "question": "How many?"}')), PROBLEM_FIELDS, strict=False, key="k"
    )
    with pytest.raises(DataError, match=r"no column 'answer'.*benchmark\.unanswerable=true"):
        list(rows)


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def columns(num_rows: int = 2) -> dict[str, Any]:
    return {"id": list(range(num_rows)), **{k: [v] * num_rows for k, v in GOOD.items() if k != "id"}}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_of_every_string_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path, **{**columns(), "thinking": pa.array(["x", "ü"], type=kind)})
    assert [(row["id"], row["thinking"]) for row in reader(path)] == [("0", "x"), ("1", "ü")]


def test_bad_parquet_cells_are_counted_one_by_one(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff", None], type=pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    rows = reader(parquet(tmp_path, **{**columns(3), "thinking": text}))
    assert [row["thinking"] for row in rows] == ["fine"]
    assert dict(rows.dropped) == {"not UTF-8": 1, "wrong type of 'thinking'": 1}


def test_strict_parquet_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2, field 'thinking': wrong type .* Got: null"):
        list(reader(parquet(tmp_path, **{**columns(), "thinking": ["1", None]}), strict=True))


def test_parquet_with_numbers_for_text_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 x wrong type of 'thinking'"):
        list(reader(parquet(tmp_path, **{**columns(), "thinking": [1.0, 2.0]})))


def test_parquet_without_the_columns_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 x missing field 'id'"):
        list(reader(parquet(tmp_path, other=[1, 2, 3])))


def test_parquet_suffix_on_another_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(reader(write(tmp_path, line(), name="rows.parquet")))


def test_benchmark_rows_need_no_thinking(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"id": 1, "question": "q", "answer": "a"}', b'{"id": 2, "question": "q", "answer": ""}')
    rows = RowReader(found(path), PROBLEM_FIELDS, strict=False, key="benchmark.path")
    assert list(rows) == [{"id": "1", "question": "q", "answer": "a"}]
    assert dict(rows.dropped) == {"empty answer": 1}


@settings(max_examples=60, deadline=None)
@given(noise=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=5))
def test_arbitrary_bytes_neither_fail_nor_lose_a_good_row(
    tmp_path_factory: pytest.TempPathFactory, noise: list[bytes]
) -> None:
    path = write(tmp_path_factory.mktemp("rows"), *noise, line(id="good one"))
    rows = reader(path)
    assert "good one" in [row["id"] for row in rows]
    assert sum(rows.dropped.values()) == sum(bool(n.removeprefix(b"\xef\xbb\xbf").strip()) for n in noise)


def texts(path: Path, *, column: str = "context", strict: bool = False) -> RowReader:
    return RowReader(found(path), text_fields(column), strict=strict, key="data.path")


def test_text_row_needs_only_its_column(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"context": "one"}', b"", b'{"context": "two", "question": "why?", "id": 9, "other": 1}')
    assert list(texts(path)) == [
        {"id": "row-1", "context": "one", "question": "", "response": "", "answer": ""},
        {"id": "9", "context": "two", "question": "why?", "response": "", "answer": ""},
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"question": "q"}', "missing field 'context'"),
        (b'{"context": " "}', "empty context"),
        (b'{"context": 5}', "wrong type of 'context'"),
        (b'{"context": null}', "wrong type of 'context'"),
        (b'{"context": "x", "id": 1}', "duplicate id"),
    ],
)
def test_text_row_without_its_text_is_dropped_and_counted(tmp_path: Path, bad: bytes, reason: str) -> None:
    rows = texts(write(tmp_path, b'{"context": "x", "id": 1}', bad))
    assert len(list(rows)) == 1
    assert dict(rows.dropped) == {reason: 1}
    with pytest.raises(DataError, match=f"line 2, .*{reason}"):
        list(texts(tmp_path / "rows.jsonl", strict=True))


def test_optional_columns_without_text_are_read_as_empty_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"context": "x", "answer": [42], "question": null, "id": ["a"]}')
    rows = texts(path)
    assert list(rows) == [{"id": "row-1", "context": "x", "question": "", "response": "", "answer": ""}]
    assert dict(rows.emptied) == {"answer": 1, "id": 1}
    with pytest.raises(DataError, match="wrong type of 'id'"):
        list(texts(path, strict=True))


def test_text_rows_of_a_parquet_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"context": ["a", None, "c"], "answer": [[1.5]] * 3}), tmp_path / "rows.parquet")
    rows = texts(tmp_path / "rows.parquet")
    assert [(row["id"], row["context"]) for row in rows] == [("row-1", "a"), ("row-3", "c")]
    assert dict(rows.dropped) == {"wrong type of 'context'": 1}
    assert dict(rows.emptied) == {"answer": 2}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_misspelt_column_names_the_nearest(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pq.write_table(pa.table({"context": ["a"], "question": ["b"]}), tmp_path / name)
    else:
        write(tmp_path, b'{"context": "a", "question": "b"}')
    with pytest.raises(DataError, match=r"no column 'contxt'\. Did you mean 'context'\? Allowed: context, question"):
        list(texts(tmp_path / name, column="contxt"))


def test_column_that_is_compressed_is_not_read_twice() -> None:
    assert [f.name for f in text_fields("question")] == ["id", "question", "response", "answer"]
    assert [f.required for f in text_fields("question")] == [False, True, False, False]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_utf_16_is_one_message(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / name).write_bytes(line().decode().encode(encoding))
    with pytest.raises(DataError, match=r"UTF-16, allowed: UTF-8|no usable row|is empty|cannot be read as csv"):
        list(reader(tmp_path / name))


def test_csv_rows_are_read_by_their_header(tmp_path: Path) -> None:
    text = '\ufeffid,question,thinking,response,answer\r\n7,"a\n""b""",so,,5\r\n8,q\r\n'
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8", newline="")
    rows = reader(tmp_path / "rows.csv")
    assert list(rows) == [{"id": "7", "question": 'a\n"b"', "thinking": "so", "response": "", "answer": "5"}]
    assert rows.first == {"wrong type of 'thinking'": "row 2"}


def test_long_csv_field_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"id,question,thinking,response,answer\n1,q,{'a' * 200_000},,\n")
    assert [len(row["thinking"]) for row in reader(tmp_path / "rows.csv")] == [200_000]


def test_column_names_that_cannot_be_printed_are_escaped(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list(reader(write(tmp_path, b'{"\\ud800thinking": 1}')))
    str(caught.value).encode()


def test_parquet_column_that_stands_twice_is_no_traceback(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(["a"])] * 6, names=["id", "question", "thinking", "response", "answer", "id"]
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    assert len(list(reader(tmp_path / "rows.parquet"))) == 1


@pytest.mark.parametrize(
    ("steps", "reason"),
    [(["a\ud800"], "lone surrogate in 'steps'"), ([{"x": ["b\0"]}], "NUL character in 'steps'")],
)
def test_texts_inside_lists_are_checked(tmp_path: Path, steps: list[Any], reason: str) -> None:
    path = write(tmp_path, b'{"id": 1, "steps": ["a"]}', json.dumps({"id": 2, "steps": steps}).encode())
    rows = RowReader(
        found(path), (TRACE_FIELDS[0], Field(name="steps", required=True, is_list=True)), strict=False, key="k"
    )
    assert len(list(rows)) == 1
    assert dict(rows.dropped) == {reason: 1}


def test_lists_are_checked_as_lists(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"id": 1, "steps": ["a", 2]}', b'{"id": 2, "steps": "a"}', b'{"id": 3, "steps": []}')
    rows = RowReader(
        found(path), (TRACE_FIELDS[0], Field(name="steps", required=True, is_list=True)), strict=False, key="data.path"
    )
    assert list(rows) == [{"id": "1", "steps": ["a", 2]}]
    assert dict(rows.dropped) == {"wrong type of 'steps'": 1, "empty steps": 1}


def generations(raw: Mapping[str, Any]) -> Iterator[dict[str, Any] | BadRow]:
    """One row per generation; an unfinished one is dropped."""
    if not isinstance(raw.get("generations"), list):
        raise BadRow("no generations", field="generations", got=str(raw.get("generations")), allowed="a list")
    for number, text in enumerate(raw["generations"]):
        thinking, closed, response = text.partition("</think>")
        if closed:
            yield {"id": f"{raw['uuid']}-{number}", "question": raw["problem"], "thinking": thinking,
                   "response": response, "answer": raw["answer"]["value"]}  # fmt: skip
        else:
            yield BadRow("thinking is not closed", got=repr(text), allowed="</think>")


RAW = [
    {"uuid": "a", "problem": "1 + 1?", "answer": {"value": 2}, "generations": ["It is 2.</think>2", "No"]},
    {"uuid": "b", "problem": "1 + 2?", "answer": {"value": 3}, "generations": None},
    {"uuid": "c", "problem": "1 + 3?", "answer": {"value": 4}, "generations": []},
    {"uuid": "d", "problem": "1 + 4?", "answer": {"value": None}, "generations": ["</think>", "Five.</think>5"]},
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_are_converted_while_they_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(RAW), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in RAW))
    rows = RowReader(found(path), TRACE_FIELDS, strict=False, key="data.path", convert=generations)
    assert rows.head(2) == RAW[:2]
    assert list(rows) == [
        {**GOOD, "id": "a-0"},
        {"id": "d-1", "question": "1 + 4?", "thinking": "Five.", "response": "5", "answer": ""},
    ]
    assert dict(rows.dropped) == {
        "thinking is not closed": 1, "no generations": 1, "nothing to read in the row": 1, "empty thinking": 1,
    }  # fmt: skip
    place = "line" if kind == "jsonl" else "row"
    assert rows.first["empty thinking"] == f"{place} 4"
    with pytest.raises(DataError, match=f"{place} 1: thinking is not closed. Got: 'No'"):
        list(RowReader(found(path), TRACE_FIELDS, strict=True, key="data.path", convert=generations))


def test_head_leaves_out_lines_that_cannot_be_parsed(tmp_path: Path) -> None:
    rows = reader(write(tmp_path, b"nonsense", line(other=1), b"[1]", line(id="b")))
    assert [row["id"] for row in rows.head(5)] == ["a", "b"]
    assert not rows.dropped


def test_broken_text_inside_of_a_parquet_list_drops_its_row_alone(tmp_path: Path) -> None:
    raw = pa.array([b"fine</think>", b"\xff</think>"], type=pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    lists = pa.ListArray.from_arrays([0, 1, 2], texts)
    path = parquet(tmp_path, id=["a", "b"], question=["q", "q"], generations=lists)

    def joined(raw: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        yield {**raw, "thinking": raw["generations"][0], "response": None, "answer": None}

    rows = RowReader(found(path), TRACE_FIELDS, strict=False, key="data.path", convert=joined)
    assert [row["thinking"] for row in rows] == ["fine</think>"]
    assert dict(rows.dropped) == {"not UTF-8": 1}
