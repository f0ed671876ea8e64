"""Files, folders and patterns, compressed or not, as one source of rows."""

import csv
import gzip
import json
import logging
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.data import files as files_module
from cotpress.data.config import Duplicates, JsonlBenchmarkConfig, JsonlDataConfig
from cotpress.data.files import ENDINGS, find_files
from cotpress.data.rows import TRACE_FIELDS, RowReader
from cotpress.data.stage import problems, traces
from cotpress.errors import ConfigError, DataError
from cotpress.records import Problem, Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

KEY = "data.path"
ROWS = [{"id": i, "question": "q", "thinking": f"über {i}", "response": None, "answer": i} for i in range(5)]
TEXTS = [{"id": str(i), "question": "q", "thinking": f"über {i}", "response": "", "answer": str(i)} for i in range(5)]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue().to_pybytes())


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def lines(rows: list[Any], **layout: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False, **layout).encode() + b"\n" for row in rows)


def write(path: Path, rows: list[Any]) -> Path:
    """Write rows in the format of the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, packed = next((path.name.removesuffix(p), p) for p in (".gz", ".zst", "") if path.name.endswith(p))
    if kind.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if kind.endswith(".csv"):
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        content = path.read_bytes()
    else:
        content = json.dumps(rows, indent=2).encode() if kind.endswith(".json") else lines(rows)
    path.write_bytes(PACKED[packed](content))
    return path


def reader(path: Path | str, **options: Any) -> RowReader:
    return RowReader(find_files(path, KEY), TRACE_FIELDS, **{"strict": False, "key": KEY, **options})


def contents(path: Path | str) -> list[Any]:
    return [raw.content for raw in find_files(path, KEY).rows()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    rows = reader(write(tmp_path / f"rows{ending}", ROWS), strict=True)
    assert list(rows) == TEXTS
    assert len(rows.head(3)) == 3


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS).encode(),
        b" \n\xef\xbb\xbf"[2:] + b"\r\n " + json.dumps(ROWS, indent=1).encode() + b"\n\n",
        lines(ROWS),
        b"\n\n" + lines(ROWS, indent=3),
        json.dumps(ROWS, ensure_ascii=False).encode()[:-1] + b" , ]",
    ],
    ids=["one line", "mark and several lines", "lines", "objects of several lines", "comma at the end"],
)
def test_json_files_of_every_layout_are_read(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    for chunk in (1 << 20, 7):
        monkeypatch.setattr(files_module, "_CHUNK", chunk)
        assert list(reader(tmp_path / "rows.json", strict=True)) == TEXTS


AROUND = {"version": 1, "info": {"tags": [{"a": 1}]}, "shape": [2, 3], "rows [x]": ROWS, "more": None}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ending", [".json", ".json.gz", ".json.zst"])
def test_rows_in_the_only_list_of_objects_of_an_object_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, indent: int | None
) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_bytes(PACKED[ending.removeprefix(".json")](b"\n" + json.dumps(AROUND, indent=indent).encode()))
    for chunk in (1 << 20, 7):
        monkeypatch.setattr(files_module, "_CHUNK", chunk)
        files_module._searched.cache_clear()
        rows = reader(path, strict=True)
        assert list(rows) == TEXTS
        assert rows.told == "read as the rows in its list 'rows [x]'"
        assert [raw.place for raw in rows.source.rows()] == [f"row {n}" for n in range(1, 6)]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "chunks": [{"chunk": "q"}]},
        {"id": 1, "messages": [{"role": "user", "content": "q"}]},
        {"conversations": [{"from": "human", "value": "q"}]},
        {"train": ROWS, "test": ROWS},
        {"data": [1, 2]},
        {"data": []},
        {},
    ],
)
def test_object_that_is_a_row_itself_or_has_no_single_list_of_rows_is_one_row(tmp_path: Path, row: Any) -> None:
    for path, text in (("one.json", json.dumps(row)), ("several.json", json.dumps(row, indent=1))):
        (tmp_path / path).write_text(text)
        assert [json.loads(c) if isinstance(c, bytes) else c for c in contents(tmp_path / path)] == [row]


def test_objects_around_lists_one_after_the_other_are_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(lines([{"data": ROWS}] * 2))
    assert len(contents(tmp_path / "rows.json")) == 2
    (tmp_path / "rows.jsonl").write_bytes(lines([{"data": ROWS}]))
    assert len(contents(tmp_path / "rows.jsonl")) == 1


def test_cut_off_object_around_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(AROUND)[:-30])
    with pytest.raises(DataError, match=r"rows\.json' cannot be read as json: row 1 is no JSON"):
        contents(tmp_path / "rows.json")


@pytest.mark.usefixtures("usual_garbage_collection")
def test_memory_for_rows_in_an_object_does_not_grow_with_their_number(tmp_path: Path) -> None:
    row = {"id": 1, "question": "q", "thinking": "x" * 2000}
    for num_rows in (1000, 8000):
        (tmp_path / f"{num_rows}.json").write_text(json.dumps({"data": [row] * num_rows}))

    def peak(num_rows: int) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in find_files(tmp_path / f"{num_rows}.json", KEY).rows()) == num_rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(1000), peak(8000)
    assert large < small + 1_000_000  # 14 MB more text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"id": 1}, {"id": ', r"row 2 is no JSON: Expecting value"),
        (b'[{"id": 1}', r"cut off after row 1"),
        (b'[{"id": 1} {"id": 2}]', r"there is no comma after row 1"),
        (b'[{"id": 1}] x', r"there is text after the array"),
        (b'[{"id": 1}, x]', r"row 2 is no JSON.*one object per line as \.jsonl"),
        (b"[" * 100_000, r"row 1 is no JSON: maximum recursion"),
        (b"[" + b"9" * 5000 + b"]", r"row 1 is no JSON: Exceeds the limit"),
        (b'{"id": \n', r"row 1 is no JSON"),
        (b'"text"', r"neither an array of objects nor objects"),
        (b'[{"id": "\xff"}]', r"cannot be read as json: 'utf-8' codec"),
        ('[{"id": 1}]'.encode("utf-16"), r"is UTF-16, allowed: UTF-8"),
        (b"  ", r"is empty"),
        (b"[]", r"is empty"),
    ],
)
def test_damaged_json_is_an_error_that_names_the_row(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.path: '.*rows\.json' .*{message}"):
        list(reader(tmp_path / "rows.json"))


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [("b.json", b'[{"id": 1}', "restore it, or"), ("b.json", b'[{"id": 1}, x]', r".*only the bad line is dropped, or"),
     ("b.parquet", b"PAR1", "restore it, or")],
)  # fmt: skip
def test_damaged_file_among_others_can_be_removed(tmp_path: Path, name: str, content: bytes, fix: str) -> None:
    for other in ("a", "c"):
        (tmp_path / f"{other}.jsonl").write_bytes(lines(ROWS))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"Fix: {fix} remove '.*{name}', and the other 2 files are read$"):
        list(reader(tmp_path))


def test_elements_of_an_array_that_are_no_objects_are_dropped_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([1, ROWS[0], "x", None, [ROWS[1]], 12]))
    rows = reader(tmp_path / "rows.json")
    assert list(rows) == TEXTS[:1]
    assert (dict(rows.dropped), rows.first) == ({"not a JSON object": 5}, {"not a JSON object": "row 1"})


def test_bad_line_of_a_json_file_of_lines_is_dropped_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(b"\n" + lines(ROWS[:1]) + b"{nonsense\n" + lines(ROWS[1:]))
    rows = reader(tmp_path / "rows.json")
    assert list(rows) == TEXTS
    assert rows.first == {"invalid JSON": "line 3"}


def test_object_over_the_limit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_LINE_BYTES", 500)
    monkeypatch.setattr(files_module, "_CHUNK", 100)
    (tmp_path / "rows.json").write_text(json.dumps([{"id": 1}, {"id": "x" * 10_000}]))
    with pytest.raises(DataError, match="row 2 is no JSON: Unterminated string"):
        list(reader(tmp_path / "rows.json"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
                          lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))),
    st.sampled_from([None, 1]), st.integers(1, 9),
)  # fmt: skip
def test_array_in_pieces_is_the_array(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("array") / "rows.json"
    path.write_text(json.dumps(values, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module, "_CHUNK", chunk)
        assert contents(path) == values


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_several_compressed_parts_in_one_file_are_one_text(tmp_path: Path, ending: str) -> None:
    content, pack = lines(ROWS), PACKED[ending]
    (tmp_path / f"rows.jsonl{ending}").write_bytes(pack(content[:70]) + pack(content[70:]))
    assert list(reader(tmp_path / f"rows.jsonl{ending}", strict=True)) == TEXTS


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut off", "another format"])
def test_damaged_compression_is_an_error(tmp_path: Path, ending: str, damage: str) -> None:
    whole = PACKED[ending](lines(ROWS * 50))
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(whole[:-9] if damage == "cut off" else b"no compression at all")
    with pytest.raises(DataError, match=rf"'{path}' cannot be read as jsonl{ending}: "):
        list(reader(path))


def test_folder_is_read_in_the_order_of_names_without_hidden_files_and_metadata(tmp_path: Path) -> None:
    write(tmp_path / "data" / "b.jsonl.gz", ROWS[2:4])
    write(tmp_path / "data" / "a.parquet", ROWS[:2])
    write(tmp_path / "z.csv", ROWS[4:])
    write(tmp_path / ".cache" / "x.jsonl", ROWS)
    write(tmp_path / ".hidden.jsonl", ROWS)
    for name in ("dataset_info.json", "dataset_infos.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "README.md").write_text("# Rows")
    (tmp_path / "loop").symlink_to(tmp_path)
    files = find_files(tmp_path, KEY)
    assert list(reader(tmp_path, strict=True)) == TEXTS
    places = [raw.place for raw in files.rows()]
    assert places == [
        "data/a.parquet, row 1", "data/a.parquet, row 2", "data/b.jsonl.gz, line 1", "data/b.jsonl.gz, line 2",
        "z.csv, row 1",
    ]  # fmt: skip
    assert [raw.number for raw in files.rows()] == [1, 2, 3, 4, 5]
    assert files.note == (
        f"3 files of '{tmp_path}': data/a.parquet, data/b.jsonl.gz, z.csv; "
        "left out: README.md, dataset_info.json, dataset_infos.json"
    )


def test_folder_that_save_to_disk_wrote_names_the_setting_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"saved by save_to_disk\. Fix: data=hub data\.path="):
        find_files(tmp_path, KEY)
    with pytest.raises(ConfigError, match=r"Fix: save its rows with to_parquet"):
        find_files(tmp_path, "benchmark.path")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("a.*", ["a.csv", "a.jsonl"]),
        ("[ab].csv", ["a.csv", "b.csv"]),
        ("**/*.csv", ["a.csv", "b.csv", "sub [1]/c.csv"]),
        ("sub [1]/*.csv", ["sub [1]/c.csv"]),
        ("sub [1]", ["sub [1]/c.csv"]),
        ("s*/?.csv", ["sub [1]/c.csv"]),
    ],
)
def test_pattern_names_the_files_that_it_matches(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("a.jsonl", "a.csv", "b.csv", ".b.csv", "sub [1]/c.csv", "a.txt"):
        write(tmp_path / name, ROWS)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in find_files(tmp_path / pattern, KEY).files] == names


def test_home_folder_counts_in_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", ROWS)
    assert list(reader("~/*.jsonl")) == TEXTS
    assert list(reader("~")) == TEXTS


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("*.csv", r"data\.path: '.*\*\.csv' matches no file\. '.*' holds a\.jsonl, sub\. Fix: another pattern"),
        ("*.txt", r"has no file that ends in \.jsonl, .*; it has notes\.txt\."),
        ("su", r"'.*su' does not exist\. Did you mean 'sub'\? '.*' holds a\.jsonl, sub\."),
        ("a**b", r"matches no file"),
        ("sub", r"'.*sub' is a folder without a file that ends in .*; it has x\.arrow\. Fix: data\.path=FILE"),
    ],
)
def test_path_without_a_file_of_rows_says_what_is_there(tmp_path: Path, path: str, message: str) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    for name in ("notes.txt", "sub/x.arrow"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=message):
        find_files(tmp_path / path, KEY)


def test_relative_pattern_without_a_file_of_rows_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").touch()
    with pytest.raises(ConfigError, match=r"'n\*' has no file that ends in .*; it has notes\.txt\."):
        find_files("n*", KEY)


@pytest.mark.parametrize("path", ["", "*.jsonl"])
def test_link_to_a_missing_file_is_not_left_out_silently(tmp_path: Path, path: str) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.jsonl").symlink_to("nowhere.jsonl")
    with pytest.raises(ConfigError, match=r"b\.jsonl' is a link to a file that does not exist"):
        find_files(tmp_path / path, KEY)


def test_empty_path_is_not_the_working_directory() -> None:
    with pytest.raises(ConfigError, match=r"data\.path: got ''"):
        find_files("", KEY)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", ROWS).chmod(0)
    with pytest.raises(ConfigError, match=r"b\.jsonl' may not be read"):
        find_files(tmp_path, KEY)


def test_large_numbers_lists_and_times_of_parquet_columns(tmp_path: Path) -> None:
    table = pa.table({
        "id": pa.array([2**53 + 1, 2**63 - 1, None]),
        "time": pa.array([0, 2**62, 1], type=pa.timestamp("ms")),
        "parts": pa.array([[["a"], []], None, [[None]]], type=pa.list_(pa.list_(pa.string()))),
        "told": pa.array([{"by": None}, None, {"by": {"name": "x"}}]),
        "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    rows = contents(tmp_path / "a.parquet")
    assert [row["id"] for row in rows] == [2**53 + 1, 2**63 - 1, None]
    assert [row["parts"] for row in rows] == [[["a"], []], None, [[None]]]
    assert [row["told"] for row in rows] == [{"by": None}, None, {"by": {"name": "x"}}]
    assert [row["kind"] for row in rows] == ["a", "b", "a"]
    assert rows[0]["time"].year == 1970


def test_identity_is_the_content_in_order_whatever_the_names(tmp_path: Path) -> None:
    for folder, names in (("one", "ab"), ("two", "xy"), ("turned", "ba")):
        for name, rows in zip(names, (ROWS[:2], ROWS[2:]), strict=True):
            write(tmp_path / folder / f"{name}.jsonl", rows)
    one, two, turned = (find_files(tmp_path / name, KEY).identity for name in ("one", "two", "turned"))
    assert one == two != turned
    single = find_files(tmp_path / "one" / "a.jsonl", KEY).identity
    assert (single["source"], single["format"], len(single["sha256"])) == ("file", ".jsonl", 64)


def test_changed_file_has_another_identity_in_the_same_process(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS[:2])
    before = find_files(path, KEY).identity
    write(path, ROWS[:3])
    assert find_files(path, KEY).identity != before


def repeated(texts: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{**ROWS[0], "id": id_, "thinking": thinking, "response": "r"} for id_, thinking in texts]


def test_repeated_ids_get_numbers_and_repeated_rows_are_dropped(tmp_path: Path) -> None:
    rows = [("a", "1"), ("a#2", "2"), ("a", "3"), ("a", "1"), ("a", "4"), ("b", "1"), ("a#2", "5"), ("a", "3")]
    read = reader(write(tmp_path / "a.jsonl", repeated(rows)), duplicates=Duplicates.number)
    assert [(row["id"], row["thinking"]) for row in read] == [
        ("a", "1"), ("a#2", "2"), ("a#3", "3"), ("a#4", "4"), ("b", "1"), ("a#2#2", "5"),
    ]  # fmt: skip
    assert (dict(read.numbered), dict(read.dropped)) == ({"repeated id": 3}, {"repeated row": 2})
    assert read.first == {"repeated row": "line 4"}
    with pytest.raises(DataError, match="line 4, field 'id': repeated row"):
        list(reader(tmp_path / "a.jsonl", duplicates=Duplicates.number, strict=True))


def test_ids_that_restart_in_every_file_lose_no_trace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcd":
        write(tmp_path / "rows" / f"{name}.jsonl", repeated([("1", name), ("2", name)]))
    config = JsonlDataConfig(name="jsonl", path=str(tmp_path / "rows"))
    store = ArtifactStore(tmp_path / "out")
    with caplog.at_level(logging.INFO):
        artifact = traces(config, store)
    assert (artifact.manifest["num_rows"], artifact.facts["numbered"]) == (8, {"repeated id": 6})
    told = [record.getMessage() for record in caplog.records if "data=" in record.getMessage()]
    assert told == [
        f"data=jsonl: 4 files of '{tmp_path / 'rows'}': a.jsonl, b.jsonl, c.jsonl, d.jsonl",
        "data=jsonl: 8 of 8 rows are used; ids made unique (ID#2): 6 x repeated id",
    ]
    config.duplicates = Duplicates.drop
    dropped = traces(config, store)
    assert dropped.manifest["dropped"] == {"duplicate id": 6}
    assert dropped.facts["first_dropped"] == {"duplicate id": "b.jsonl, line 1"}
    assert (caplog.records[-1].levelno, caplog.records[-1].getMessage()) == (
        logging.WARNING,
        "data=jsonl: 2 of 8 rows are used; 6 lost: 6 x duplicate id (first: b.jsonl, line 1); "
        "data.strict=true stops at the first one",
    )


@pytest.mark.parametrize("name", ["b.jsonl.gz", "b.json", "folder/b.parquet"])
def test_benchmark_of_any_container_is_read_and_never_shrinks_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rows = [{"id": i, "question": "q", "answer": i} for i in range(99)]
    path = write(tmp_path / name, [*rows, {"id": 7, "question": "other", "answer": 1}])
    if name.startswith("folder"):
        path = path.parent
    config = JsonlBenchmarkConfig(name="mine", path=str(path), max_new_tokens=8)
    found = problems(config, ArtifactStore(tmp_path / "out"))
    assert [p.answer for p in read_records(found.file("problems.parquet"), Problem)] == [str(i) for i in range(99)]
    place = "line 100" if "jsonl" in name else "row 100"
    assert caplog.messages == [
        f"benchmark=mine: 99 of 100 rows are used; 1 lost: 1 x duplicate id (first: {place}); "
        "benchmark.strict=true stops at the first one"
    ]


def test_first_lost_row_of_several_files_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS[:2])
    write(tmp_path / "b.csv.gz", [*ROWS[2:], {**ROWS[0], "id": 9, "thinking": " "}])
    config = JsonlDataConfig(name="jsonl", path=str(tmp_path), strict=True)
    with pytest.raises(DataError, match=r"b\.csv\.gz, row 4, field 'thinking': empty thinking.*data\.strict=false"):
        traces(config, ArtifactStore(tmp_path / "out"))


def test_rows_without_ids_are_numbered_over_all_files(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "rows" / f"{name}.jsonl", [{"text": f"{name}{i}"} for i in range(2)])
    config = JsonlDataConfig(name="jsonl", path=str(tmp_path / "rows"), field="text")
    rows = read_records(traces(config, ArtifactStore(tmp_path / "out")).file("traces.parquet"), Trace)
    assert {row.id: row.thinking for row in rows} == {"row-1": "a0", "row-2": "a1", "row-3": "b0", "row-4": "b1"}


@pytest.mark.parametrize(
    ("path", "title"),
    [("d/aime.jsonl", "aime"), ("d/aime.2024.json.gz", "aime.2024"), ("d/sets", "sets"), ("d/*.csv", "*")],
)
def test_benchmark_is_named_by_its_file_without_the_ending(path: str, title: str) -> None:
    assert JsonlBenchmarkConfig(name="jsonl", path=path, max_new_tokens=1).title == title


@pytest.mark.parametrize(
    ("key", "fix"),
    [("data.path", "data=hub data.path=hf://o/n"), ("labelled.path", "data@labelled=hub labelled.path=hf://o/n"),
     ("benchmark.path", "download the file and name it")],
)  # fmt: skip
def test_address_on_the_hub_names_the_setting_that_reads_it(key: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: 'hf://o/n' is on the Hugging Face hub, .* Fix: {fix}$"):
        find_files("hf://o/n", key)
