import dataclasses
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.data import stage
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
)
from cotpress.data.planted import Length
from cotpress.data.registry import Source
from cotpress.data.stage import split
from cotpress.errors import ConfigError, DataError
from cotpress.records import Problem, Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records


def planted(**changes: Any) -> PlantedDataConfig:
    return PlantedDataConfig(**{"name": "planted", "num_traces": 20, "seed": 1, **changes})


def benchmark(**changes: Any) -> PlantedBenchmarkConfig:
    return PlantedBenchmarkConfig(**{"name": "planted", "num_problems": 14, "max_new_tokens": 10, **changes})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "out")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    good = [{"id": i, "question": "q", "thinking": "t", "response": "r", "answer": "a"} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*good, {"id": 99}]), encoding="utf-8")
    return path


def jsonl(path: Path, **changes: Any) -> JsonlDataConfig:
    return JsonlDataConfig(name="mine", path=str(path), **changes)


def test_planted_traces_keep_their_labels_through_the_artifact(store: ArtifactStore) -> None:
    artifact = stage.traces(planted(), store)
    traces = read_records(artifact.file("traces.parquet"), Trace)
    assert len(traces) == 20
    assert all(trace.spans[-1].end == len(trace.thinking) for trace in traces)
    assert artifact.facts == {"train": 18, "validation": 2}


def test_planted_problems_are_written(store: ArtifactStore) -> None:
    problems = read_records(stage.problems(benchmark(), store).file("problems.parquet"), Problem)
    assert len(problems) == 14
    assert len({p.family for p in problems}) == 8


@pytest.mark.parametrize("group", ["data", "labelled"])
def test_unknown_family_is_named_with_its_group(store: ArtifactStore, group: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{group}\.families: got 'buss'\. Did you mean 'bus'"):
        stage.traces(planted(families=["buss"]), store, group=group)


def test_limit_keeps_the_first_rows(store: ArtifactStore) -> None:
    all_ids = [t.id for t in read_records(stage.traces(planted(), store).file("traces.parquet"), Trace)]
    some = read_records(stage.traces(planted(limit=5), store).file("traces.parquet"), Trace)
    assert [t.id for t in some] == all_ids[:5]
    assert stage.problems(benchmark(limit=3), store).manifest["num_rows"] == 3


def test_name_and_token_budget_are_not_in_the_identity(store: ArtifactStore) -> None:
    assert stage.traces(planted(), store).key == stage.traces(planted(name="other"), store).key
    assert stage.problems(benchmark(), store).key == stage.problems(benchmark(max_new_tokens=99), store).key


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"num_traces": 21}, {"length": Length.long}, {"families": ["bus"]},
               {"validation_fraction": 0.2}, {"limit": 3}],
)  # fmt: skip
def test_every_content_field_changes_the_fingerprint(store: ArtifactStore, change: dict[str, Any]) -> None:
    assert stage.traces(planted(), store).key != stage.traces(planted(**change), store).key


def test_bad_rows_of_a_file_are_counted_in_the_manifest(store: ArtifactStore, rows: Path) -> None:
    artifact = stage.traces(jsonl(rows), store)
    assert artifact.manifest["num_rows"] == 10
    assert artifact.manifest["dropped"] == {"missing field 'question'": 1}


def test_identity_follows_the_content_of_a_file_not_its_path(store: ArtifactStore, rows: Path) -> None:
    first = stage.traces(jsonl(rows), store).key
    moved = rows.with_name("moved.jsonl")
    shutil.copy(rows, moved)
    assert stage.traces(jsonl(moved), store).key == first
    with moved.open("a", encoding="utf-8") as handle:
        handle.write("\n")
    assert stage.traces(jsonl(moved), store).key != first


def test_strict_run_does_not_reuse_the_artifact_of_a_lenient_one(store: ArtifactStore, rows: Path) -> None:
    stage.traces(jsonl(rows), store)
    with pytest.raises(DataError, match="line 11, field 'question'"):
        stage.traces(jsonl(rows, strict=True), store)


def test_validation_of_all_traces_is_refused(store: ArtifactStore, rows: Path) -> None:
    with pytest.raises(DataError, match=re.escape("leaves none of 1 traces for training")):
        stage.traces(jsonl(rows, limit=1, validation_fraction=0.9), store)


def test_own_benchmark_problems_are_read(store: ArtifactStore, rows: Path) -> None:
    config = JsonlBenchmarkConfig(name="mine", path=str(rows), max_new_tokens=10)
    problems = read_records(stage.problems(config, store).file("problems.parquet"), Problem)
    assert [p.id for p in problems] == [str(i) for i in range(10)]


def test_missing_benchmark_file_is_named_with_its_key(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark\.path: .*does not exist"):
        stage.problems(JsonlBenchmarkConfig(name="mine", path=str(tmp_path / "no.jsonl"), max_new_tokens=10), store)


def test_configuration_without_a_source_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match="Allowed: planted, jsonl"):
        stage.traces(DataConfig(name="x"), store)
    with pytest.raises(ConfigError, match="Allowed: planted, jsonl"):
        stage.problems(BenchmarkConfig(name="x", max_new_tokens=1), store)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_whole_number_answers_of_a_benchmark_are_all_used(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = [7, 0.5, True, "8", 3.0, -1, 10**20, "x"]
    path = write(tmp_path / "b.jsonl", *({"id": i, "question": "q", "answer": a} for i, a in enumerate(values)))
    config = JsonlBenchmarkConfig(name="mine", path=str(path), max_new_tokens=10, strict=True)
    problems = read_records(stage.problems(config, store).file("problems.parquet"), Problem)
    assert [p.answer for p in problems] == ["7", "0.5", "true", "8", "3", "-1", str(10**20), "x"]
    assert not warnings(caplog)


def test_benchmark_never_shrinks_without_a_warning(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"id": i, "question": "q", "answer": "1"} for i in range(99)]
    path = write(tmp_path / "b.jsonl", *rows, {"id": 99, "question": "q", "answer": None})
    config = JsonlBenchmarkConfig(name="mine", path=str(path), max_new_tokens=10)
    expected = "benchmark=mine: 99 of 100 rows are used; 1 lost: 1 x wrong type of 'answer' (first: line 100)"
    expected += "; benchmark.strict=true stops at the first one"
    stage.problems(config, store)
    assert warnings(caplog) == [expected]
    artifact = stage.problems(config, store)  # the same store tells it once
    assert warnings(caplog) == [expected]
    again = ArtifactStore(store._root.parent)  # another job, which finds the artifact, tells it as well
    stage.problems(config, again)
    assert warnings(caplog) == [expected] * 2
    assert artifact.manifest["dropped"] == {"wrong type of 'answer'": 1}
    assert artifact.facts == {"first_dropped": {"wrong type of 'answer'": "line 100"}}


def test_strict_benchmark_refuses_a_loss_also_where_a_lenient_run_has_read_it(
    store: ArtifactStore, tmp_path: Path
) -> None:
    good = {"id": 1, "question": "q", "answer": "1"}
    path = write(tmp_path / "b.jsonl", good, good)
    config = JsonlBenchmarkConfig(name="mine", path=str(path), max_new_tokens=10)
    for _ in range(2):
        with pytest.raises(DataError, match=r"line 2, field 'id': duplicate id.*benchmark\.strict=false"):
            stage.problems(dataclasses.replace(config, strict=True), store)
        lenient = stage.problems(config, store)
    write(path, good)
    assert stage.problems(dataclasses.replace(config, strict=True), store).key != lenient.key
    assert stage.problems(dataclasses.replace(config, strict=True), store).key == stage.problems(config, store).key, (
        "without a loss both are the same artifact"
    )


@pytest.mark.parametrize(("num_bad", "level"), [(5, logging.INFO), (6, logging.WARNING)])
@pytest.mark.parametrize("group", ["data", "labelled"])
def test_lost_traces_are_a_warning_above_five_percent(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, group: str, num_bad: int, level: int
) -> None:
    good = [{"id": i, "question": "q", "thinking": "t", "response": "r", "answer": 1} for i in range(100 - num_bad)]
    path = write(tmp_path / "t.jsonl", *good, *({**good[0], "thinking": ""} for _ in range(num_bad - 1)), good[0])
    with caplog.at_level(logging.INFO):
        artifact = stage.traces(jsonl(path), store, group=group)
    (told,) = [r for r in caplog.records if "rows are used" in r.getMessage()]
    assert told.levelno == level
    assert told.getMessage() == (
        f"{group}=mine: {100 - num_bad} of 100 rows are used; {num_bad} lost: {num_bad - 1} x empty thinking "
        f"(first: line {101 - num_bad}), 1 x repeated row (first: line 100); "
        f"{group}.strict=true stops at the first one"
    )
    assert artifact.manifest["dropped"] == {"empty thinking": num_bad - 1, "repeated row": 1}
    with pytest.raises(DataError, match=rf"line {101 - num_bad}, .*{group}\.strict=false"):
        stage.traces(jsonl(path, strict=True), store, group=group)


def test_empty_responses_are_announced(store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    responses = ["", None, " \n", *["r"] * 7]
    row = {"question": "q", "thinking": "t", "answer": "1"}
    path = write(tmp_path / "t.jsonl", *({"id": i, "response": r, **row} for i, r in enumerate(responses)))
    artifact = stage.traces(jsonl(path, strict=True), store)
    assert artifact.facts["empty"] == {"response": 3}
    assert warnings(caplog) == ["data=mine: 10 of 10 rows are used; empty: 3 x response"]


def test_empty_answers_are_announced_with_the_settings_that_need_them(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"question": "q", "thinking": "t", "response": "r", "answer": ""}
    stage.traces(jsonl(write(tmp_path / "t.jsonl", *({"id": i, **row} for i in range(3)))), store)
    assert warnings(caplog) == [
        "data=mine: 3 of 3 rows are used; empty: 3 x answer (an answer is needed by data.generations=shortest_correct, "
        "compression.protection=answer, scorer.target=answer and sft.validation_problems; data.columns.answer=COLUMN "
        "gives it)"
    ]


def test_data_without_a_loss_are_not_told(store: ArtifactStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stage.traces(planted(), store)
        stage.problems(benchmark(), store)
    assert "rows are used" not in caplog.text


def test_long_row_costs_bounded_memory_and_is_dropped(store: ArtifactStore, tmp_path: Path) -> None:
    good = {"id": 1, "question": "q", "thinking": "t", "response": "r", "answer": 1}
    long = [{**good, "id": name, name: "1 + 1 = 2. " * 400_000} for name in ("question", "thinking", "response")]
    path = write(tmp_path / "t.jsonl", good, *long)
    artifact = stage.traces(jsonl(path, validation_fraction=0), store)
    assert artifact.manifest["num_rows"] == 1
    assert artifact.manifest["dropped"] == {f"text over 1,000,000 bytes in '{row['id']}'": 1 for row in long}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [{"context": f"text {i}", "question": f"q {i}", "response": "r", "answer": [i]} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_texts_of_a_column_have_no_validation_split(store: ArtifactStore, texts: Path) -> None:
    artifact = stage.traces(jsonl(texts, field="context", validation_fraction=0.5), store)
    rows = read_records(artifact.file("traces.parquet"), Trace)
    assert [(t.id, t.question, t.thinking, t.response, t.answer) for t in rows] == [
        (f"row-{i + 1}", f"q {i}", f"text {i}", "r", "") for i in range(9)
    ]
    assert {t.split for t in rows} == {"train"}
    assert artifact.facts["read_as_empty"] == {"answer": 9}


def test_compressed_column_is_not_read_as_condition(store: ArtifactStore, texts: Path) -> None:
    rows = read_records(stage.traces(jsonl(texts, field="question"), store).file("traces.parquet"), Trace)
    assert (rows[0].thinking, rows[0].question, rows[0].response) == ("q 0", "", "r")


def test_tags_in_a_compressed_column_are_no_part_of_its_text(store: ArtifactStore, tmp_path: Path) -> None:
    texts = ["<think>a</think>b", "a <think> b", "a", "b</think>c"]
    path = write(tmp_path / "t.jsonl", *({"id": i, "text": text} for i, text in enumerate(texts)))
    artifact = stage.traces(jsonl(path, field="text"), store, group="labelled")
    rows = read_records(artifact.file("traces.parquet"), Trace)
    assert [(t.id, t.thinking, t.response) for t in rows] == [("0", "a", "b"), ("2", "a", ""), ("3", "b", "c")]
    assert artifact.facts["first_dropped"] == {"text before the thinking": "line 2"}
    with pytest.raises(DataError, match=r"line 2: text before the thinking.*labelled\.strict=false"):
        stage.traces(jsonl(path, field="text", strict=True), store, group="labelled")


def test_columns_are_different_artifacts(store: ArtifactStore, texts: Path) -> None:
    keys = {stage.traces(jsonl(texts, field=field), store).key for field in ("context", "question", "response")}
    assert len(keys) == 3


def test_ids_cannot_be_compressed(store: ArtifactStore, texts: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.field: got 'id'"):
        stage.traces(jsonl(texts, field="id"), store)


SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "long_cot_ci.jsonl"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="no data folder beside the checkout")
def test_real_r1_traces_are_read_without_loss(store: ArtifactStore) -> None:
    artifact = stage.traces(jsonl(SHARED), store)
    assert artifact.manifest["num_rows"] == 60
    assert not artifact.manifest["dropped"]


def trace(id_: str) -> Trace:
    return Trace(id=id_, question="q", thinking="t", response="", answer="")


@given(num=st.integers(1, 80), fraction=st.floats(0, 0.99))
def test_validation_count_is_exact_and_order_is_kept(num: int, fraction: float) -> None:
    rows = list(split(lambda: [trace(str(i)) for i in range(num)], fraction))
    assert [row.id for row in rows] == [str(i) for i in range(num)]
    assert sum(row.split == "validation" for row in rows) == round(fraction * num)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_membership_does_not_depend_on_the_order_of_rows(fraction: float) -> None:
    ids = [f"row {i}" for i in range(50)]
    forward = {row.id for row in split(lambda: map(trace, ids), fraction) if row.split == "validation"}
    backward = {row.id for row in split(lambda: map(trace, ids[::-1]), fraction) if row.split == "validation"}
    assert forward == backward


@dataclasses.dataclass(kw_only=True, slots=True)
class OwnConfig(DataConfig):
    """Settings of a registered source."""


def test_tags_in_the_traces_of_a_registered_source_are_stripped_or_counted(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["<think>a</think>", "a<think>", "a"]
    made = [Trace(id=str(i), question="q", thinking=t, response="r", answer="") for i, t in enumerate(texts)]
    monkeypatch.setitem(stage.SOURCES, OwnConfig, lambda config: Source({"source": "own"}, [], lambda: made))
    artifact = stage.traces(OwnConfig(name="own", validation_fraction=0.0), store)
    traces = read_records(artifact.file("traces.parquet"), Trace)
    assert [(t.id, t.thinking) for t in traces] == [("0", "a"), ("2", "a")]
    assert artifact.manifest["dropped"] == {"text before the thinking": 1}
    assert artifact.facts["first_dropped"] == {"text before the thinking": "record 2"}
    with pytest.raises(DataError, match=r"data, record 2: text before the thinking.*data\.strict=false"):
        stage.traces(OwnConfig(name="own", validation_fraction=0.0, strict=True), store)
    made = made[1:2]
    with pytest.raises(DataError, match=r"data=own: no usable row \(1 x text before the thinking"):
        stage.traces(OwnConfig(name="own", validation_fraction=0.1), store)
