"""Every known format, through the data stage; the table of docs/data.md has the numbers of these files."""

import json
import logging
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from cotpress.answers import Extractor
from cotpress.cli.arguments import quoted
from cotpress.data import stage
from cotpress.data.config import ColumnsConfig, FileFormat, JsonlBenchmarkConfig, JsonlDataConfig
from cotpress.data.formats import FORMATS
from cotpress.errors import ConfigError, DataError
from cotpress.records import Problem, Trace
from cotpress.settings import check_settings
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.store.tables import read_records
from support.trace_files import BOS, EOS, QUESTION, RESPONSE, SHAPES, TEXT, THINKING, UNCLOSED, Row

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "out")


def config(path: Path, rows: list[Row], *, columns: dict[str, str] | None = None, **settings: Any) -> JsonlDataConfig:
    path = path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own = ColumnsConfig(**(columns or {}))
    return JsonlDataConfig(name="mine", path=str(path), columns=own, **{"validation_fraction": 0.0, **settings})


def read(artifact: Artifact) -> list[Trace]:
    return read_records(artifact.file("traces.parquet"), Trace)


def openr1(*generations: str, right: list[bool] | None = None, **changes: Any) -> Row:
    row = {"uuid": "u", "problem": QUESTION, "answer": "7", "generations": list(generations)}
    return row | ({"correctness_math_verify": right} if right else {}) | changes


@pytest.mark.parametrize("name", SHAPES)
def test_published_shape_is_recognised_and_read(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    shape = SHAPES[name]
    with caplog.at_level(logging.INFO):
        artifact = stage.traces(config(tmp_path, shape.rows, **shape.settings), store)
    traces = read(artifact)
    assert [trace.id for trace in traces] == shape.ids
    for trace in traces:
        assert (trace.question, trace.thinking, trace.response, trace.answer) == (
            QUESTION, shape.thinking, shape.response, shape.answer,
        )  # fmt: skip
    assert artifact.manifest["dropped"] == shape.dropped
    if shape.format is not FileFormat.cotpress:
        assert (artifact.facts["read_as"], artifact.facts["columns_used"]) == (shape.format.value, shape.used)
    told = [message for message in caplog.messages if "read as" in message and " used (" in message]
    columns = f"{len(shape.used)} column{'s' * (len(shape.used) > 1)} used ({', '.join(shape.used)})"
    line = f"data=mine: read as {shape.format.value}: {columns}"
    others = f"; it also looks like {shape.also} (data.format=NAME reads it so)" if shape.also else ""
    assert told == ([] if shape.format is FileFormat.cotpress else [line + others])


def test_docs_have_every_format_with_its_numbers_of_rows() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \| ([^|]+) \| `([^`]+)` \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    test = test_published_shape_is_recognised_and_read.__name__
    assert rows == [
        (
            name,
            shape.format.value,
            ", ".join(f"`{column}`" for column in shape.used),
            f"{test}[{name}]",
            str(len(shape.rows)),
            str(len(shape.ids)),
        )
        for name, shape in SHAPES.items()
    ]
    assert {shape.format for shape in SHAPES.values()} == set(FORMATS)
    assert {*FORMATS, FileFormat.auto} == set(FileFormat)


def test_format_of_a_parquet_file_with_lists_is_recognised(store: ArtifactStore, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(SHAPES["OpenR1-Math-220k"].rows), tmp_path / "rows.parquet")
    made = stage.traces(
        JsonlDataConfig(name="mine", path=str(tmp_path / "rows.parquet"), validation_fraction=0.0), store
    )
    assert [trace.id for trace in read(made)] == ["u/1", "v/0"]


@pytest.mark.parametrize(
    ("generations", "right", "expected"),
    [
        ("first", [False, False, True], ["u/1"]),
        ("all", [False, False, True], ["u/1", "u/2"]),
        ("1", [False, False, True], ["u/1"]),
        ("5", [False, False, True], ["u/1", "u/2"]),
        ("shortest_correct", [True, True, True], ["u/2"]),
        ("shortest_correct", [True, True, False], ["u/1"]),
        ("shortest_correct", None, ["u/1"]),  # the gold answer decides
    ],
)
def test_generations_are_chosen(
    store: ArtifactStore, tmp_path: Path, generations: str, right: list[bool] | None, expected: list[str]
) -> None:
    row = openr1(UNCLOSED, TEXT, "<think>Eight.</think>\\boxed{8}", right=right)
    made = stage.traces(config(tmp_path, [row], generations=generations), store)
    assert [trace.id for trace in read(made)] == expected
    assert made.manifest["dropped"] == ({"thinking is not closed": 1} if generations == "all" else {})


@pytest.mark.parametrize(("extractor", "expected"), [(Extractor.letter, ["u/1"]), (Extractor.math, [])])
def test_kind_of_the_answers_decides_about_a_right_generation(
    store: ArtifactStore, tmp_path: Path, extractor: Extractor, expected: list[str]
) -> None:
    texts = [f"<think>Eight or nine.</think>Option {letter} is correct, as the rest is too small." for letter in "AB"]
    rows = [openr1(*texts, answer="B"), openr1(*texts, "<think>A or C.</think>\\boxed{C}", answer="C", uuid="v")]
    made = stage.traces(config(tmp_path, rows, generations="shortest_correct", extractor=extractor), store)
    assert [trace.id for trace in read(made)] == [*expected, "v/2"]


@pytest.mark.parametrize(
    ("num_wrong", "generations", "level", "unused"),
    [(7, "first", logging.WARNING, 20), (1, "first", logging.INFO, 20), (7, "all", logging.WARNING, 0)],
)
def test_used_generations_that_are_marked_as_wrong_are_told(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, num_wrong: int, generations: str,
    level: int, unused: int,
) -> None:  # fmt: skip
    rows = [openr1(TEXT, TEXT, uuid=str(i), right=[i >= num_wrong, True]) for i in range(20)]
    settings = config(tmp_path, rows, generations=generations)
    with caplog.at_level(logging.INFO):
        made = stage.traces(settings, store)
        stage.traces(settings, store)
    (told,) = [record for record in caplog.records if "marked as wrong" in record.getMessage()]
    rest = f", {unused} further generations are not used" if unused else ""
    assert told.levelno == level
    assert told.getMessage() == (
        f"data=mine: {num_wrong} of {40 - unused} used generations are marked as wrong; "
        f"data.generations=shortest_correct takes the shortest right one of each row{rest}"
    )
    assert (made.facts["marked_wrong"], made.facts.get("unused_generations", 0)) == (num_wrong, unused)
    chosen = stage.traces(config(tmp_path, rows, generations="shortest_correct"), store)
    assert "marked_wrong" not in chosen.facts


def test_single_generation_that_is_marked_as_wrong_is_told(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [SHAPES["s1K-1.1"].rows[0] | {"deepseek_grade": "No"}]
    stage.traces(config(tmp_path, rows), store)
    assert "1 of 1 used generations are marked as wrong" in caplog.text


def test_choices_of_generations_are_different_artifacts(store: ArtifactStore, tmp_path: Path) -> None:
    keys = {
        stage.traces(config(tmp_path, [openr1(TEXT, TEXT)], **changes), store).key
        for changes in ({}, {"generations": "all"}, {"format": FileFormat.tagged}, {"columns": {"id": "problem"}})
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("mark", "complete"),
    [("stop", True), ("STOP", True), ("eos_token", True), ("end_turn", True), ("", True), (None, True),
     ("length", False), ("max_tokens", False), ("abort", False)],
)  # fmt: skip
def test_generation_is_complete_by_the_reasons_of_every_server(
    store: ArtifactStore, tmp_path: Path, mark: str | None, complete: bool
) -> None:
    rows = [openr1(TEXT), openr1(TEXT, uuid="v", finish_reasons=[mark])]
    ids = [trace.id for trace in read(stage.traces(config(tmp_path, rows), store))]
    assert ids == (["u/0", "v/0"] if complete else ["u/0"])


def test_row_without_a_correct_generation_is_dropped(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [openr1(TEXT), openr1("<think>Eight.</think>\\boxed{8}", uuid="v"), openr1(TEXT, uuid="w", answer=None)]
    made = stage.traces(config(tmp_path, rows, generations="shortest_correct"), store)
    assert made.manifest["dropped"] == {
        "no correct generation": 1, "no flag and no answer to choose a correct generation by": 1,
    }  # fmt: skip


def test_correct_generations_need_flags_or_answers(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither flags.*data\.columns\.answer=COLUMN"):
        stage.traces(config(tmp_path, [openr1(TEXT, answer=None)], generations="shortest_correct"), store)


@pytest.mark.parametrize("text", ["some", "0", "-1", "1.5", ""])
def test_unknown_choice_of_generations_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: first, all, shortest_correct"):
        check_settings(config(tmp_path, [], generations=text), "data")


def test_generations_of_a_question_are_in_one_split(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [openr1(TEXT, f"<think>{n}</think>7", uuid=str(n), problem=f"{n}?") for n in range(20)]
    traces = read(stage.traces(config(tmp_path, rows, generations="all", validation_fraction=0.5), store))
    splits = {trace.question: set[str]() for trace in traces}
    for trace in traces:
        splits[trace.question].add(trace.split)
    assert len(traces) == 40
    assert all(len(both) == 1 for both in splits.values())
    assert sum(both == {"validation"} for both in splits.values()) == 10


def test_settings_take_the_place_of_single_columns(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [openr1(TEXT, variants=["Add them."], meta={"gold": 8})]
    columns = {"question": "variants[0]", "answer": "meta.none|meta.gold"}
    with caplog.at_level(logging.INFO):
        (trace,) = read(stage.traces(config(tmp_path, rows, columns=columns), store))
    assert (trace.question, trace.thinking, trace.answer) == ("Add them.", THINKING, "8")
    assert "read as openr1: 4 columns used (variants, generations, meta, uuid)" in caplog.text


def test_own_columns_need_no_format(store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"q": QUESTION, "log": [{"who": "tool", "x": "no"}, {"who": "me", "x": TEXT}]}]
    with caplog.at_level(logging.INFO):
        made = stage.traces(config(tmp_path, rows, columns={"question": "q", "response": "log[who=me].x"}), store)
    assert [(t.id, t.thinking, t.response) for t in read(made)] == [("row-1", THINKING, RESPONSE)]
    assert "read as your own columns: 2 columns used (q, log)" in caplog.text


def test_last_exchange_of_a_conversation_can_be_named(store: ArtifactStore, tmp_path: Path) -> None:
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", QUESTION), ("assistant", TEXT)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    columns = {"question": "messages[-2].content", "response": "messages[-1].content"}
    (trace,) = read(stage.traces(config(tmp_path, rows, columns=columns), store))
    assert (trace.question, trace.thinking) == (QUESTION, THINKING)


def test_column_that_no_row_has_is_refused_with_those_of_the_file(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.columns\.question: got 'quest', .*problem \(text\), .*list of text"):
        stage.traces(config(tmp_path, [openr1(TEXT)], columns={"question": "quest"}), store)


@pytest.mark.parametrize(
    ("row", "missing", "settings"),
    [
        ({"prob": QUESTION, "gens": [TEXT]}, "question, thinking, response, answer",
         "data.columns.question=prob data.columns.response=gens"),
        ({"problem": QUESTION, "meta": {"cot": THINKING}, "final_answer": "7"}, "question, thinking, response, answer",
         "data.columns.question=problem data.columns.thinking=meta.cot data.columns.answer=final_answer"),
        ({"n": 7}, "question, thinking, response, answer",
         "data.columns.question=COLUMN data.columns.thinking=COLUMN"),
        ({"question": QUESTION, "answer": "7", "a": [{"why": THINKING}]}, "thinking, response",
         "'data.columns.thinking=a[0].why'"),
        ({"question": QUESTION, "thinking": THINKING, "reply": RESPONSE}, "response, answer",
         "data.columns.response=reply"),
        ({"question": QUESTION, "thinking": THINKING, "n": 7}, "response, answer",
         "data.columns.thinking=thinking"),
        ({"prompt": QUESTION, "reasoning": THINKING, "answer": f"It is 7. {RESPONSE}"}, "question, thinking, response",
         "data.columns.question=prompt data.columns.thinking=reasoning data.columns.response=answer"),
        ({"question": QUESTION, "reasoning_content": THINKING, "answer": RESPONSE}, "thinking, response",
         "data.columns.thinking=reasoning_content"),
        ({"problem": QUESTION, "r1_reasoning": THINKING, "r1_solution": RESPONSE, "true_solution": "7", "truth": "7"},
         "question, thinking, response, answer",
         "data.columns.question=problem data.columns.thinking=r1_reasoning data.columns.response=r1_solution "
         "data.columns.answer=truth"),
        ({"problem": QUESTION, "reasoning_content": THINKING, "content": RESPONSE, "answer": "7"},
         "question, thinking, response",
         "data.columns.question=problem data.columns.thinking=reasoning_content data.columns.response=content"),
        ({"prompt": QUESTION, "response": {"thinking": THINKING, "text": RESPONSE}},
         "question, thinking, response, answer",
         "data.columns.question=prompt data.columns.thinking=response.thinking data.columns.response=response.text"),
        ({"source": "web", "turns": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": TEXT}]},
         "question, thinking, response, answer",
         "'data.columns.question=turns[-2].content' 'data.columns.response=turns[-1].content'"),
        ({"talk": [{"role": "human", "said": QUESTION}, {"role": "bot", "said": THINKING},
                   {"role": "bot", "said": RESPONSE}]},
         "question, thinking, response, answer",
         "'data.columns.question=talk[role=human].said' 'data.columns.thinking=talk[-1].said'"),
        ({"q": QUESTION, "outs": [{"text": TEXT, "index": 0}, {"text": TEXT, "index": 1}]},
         "question, thinking, response, answer",
         "data.columns.question=q 'data.columns.response=outs[0].text'"),
        ({"my, prompt": QUESTION, "cot (long)": THINKING}, "question, thinking, response, answer",
         """'data.columns.question="my, prompt"' 'data.columns.thinking="cot (long)"'"""),
        ({"q=1": QUESTION, 'a "b" \\': THINKING}, "question, thinking, response, answer",
         r"""'data.columns.question="q=1"' 'data.columns.thinking="a \"b\" \\"'"""),
    ],
)  # fmt: skip
def test_unknown_shape_is_one_message_with_settings_to_try(
    store: ArtifactStore, tmp_path: Path, row: Row, missing: str, settings: str
) -> None:
    with pytest.raises(DataError) as error:
        stage.traces(config(tmp_path, [row, row]), store)
    message = str(error.value)
    assert f"Missing: {missing}. " in message
    assert f"Fix, for instance: {settings}. Known: data.format=cotpress, openr1," in message
    assert all(f"{name} (" in message for name in row)
    if "COLUMN" not in settings:
        places = dict(map(_column, quoted(shlex.split(settings))))
        assert read(stage.traces(config(tmp_path, [row], columns=places), store))


@pytest.mark.parametrize(
    ("name", "column", "settings"),
    [
        ("OpenR1-Math-220k", "problem", "data.format=openr1 data.columns.question=problem_text"),
        ("OpenR1-Math-220k", "generations", "data.format=openr1 data.columns.response=generations_text"),
        ("s1K-1.1", "deepseek_attempt", "data.format=s1k11 data.columns.response=deepseek_attempt_text"),
        ("s1K-1.1", "deepseek_thinking_trajectory",
         "data.format=s1k11 data.columns.thinking=deepseek_thinking_trajectory_text"),
        ("TokenSkip, predictions", "model_output", "data.format=tokenskip data.columns.thinking=model_output_text"),
        ("OpenMathReasoning", "problem", "data.format=openmath data.columns.question=problem_text"),
    ],
)  # fmt: skip
def test_known_format_with_one_renamed_column_is_offered_with_its_flags(
    store: ArtifactStore, tmp_path: Path, name: str, column: str, settings: str
) -> None:
    shape = SHAPES[name]
    rows = [{k if k != column else f"{k}_text": v for k, v in row.items() if k != "messages"} for row in shape.rows]
    with pytest.raises(DataError) as error:
        stage.traces(config(tmp_path, rows), store)
    assert f"Fix, for instance: {settings}. Known:" in str(error.value)
    format_, place = settings.split()
    typed = config(
        tmp_path, rows, format=FileFormat(format_.removeprefix("data.format=")), columns=dict([_column(place)])
    )
    traces = read(stage.traces(typed, store))
    assert [(trace.id, trace.question, trace.thinking) for trace in traces] == [
        (id_, QUESTION, shape.thinking) for id_ in shape.ids
    ]


def test_renamed_column_is_told_where_another_format_reads_the_file(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shape = SHAPES["OpenR1-Math-220k"]
    rows = [{"problem_text" if k == "problem" else k: v for k, v in row.items()} for row in shape.rows]
    with caplog.at_level(logging.INFO):
        stage.traces(config(tmp_path, rows[1:2]), store)
    assert "read as chat" in caplog.text
    assert "data.format=openr1 data.columns.question=problem_text reads it so" in caplog.text


def test_choice_by_answers_alone_is_one_warning(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [openr1(TEXT, right=[True])]
    stage.traces(config(tmp_path, rows, generations="shortest_correct"), store)
    assert caplog.messages == []
    rows = [{"problem_text" if k == "problem" else k: v for k, v in row.items()} for row in rows]
    own = config(
        tmp_path, rows, generations="shortest_correct", columns={"question": "problem_text", "response": "generations"}
    )
    for _ in range(2):
        stage.traces(own, store)
    assert caplog.messages == [
        "data.generations=shortest_correct: no column with flags of correctness is known in this file, so a generation "
        "counts as correct if it states the gold answer (data.columns.answer). If the file has flags, "
        "data.format=openr1 data.columns.question=problem_text reads those of a known format"
    ]


def _column(setting: str) -> tuple[str, str]:
    """Name and place of a setting, read as on the command line."""
    override = OverridesParser.create().parse_override(setting)
    return override.key_or_group.removeprefix("data.columns."), str(override.value())


def test_forced_format_that_does_not_fit_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"not the shape of data\.format=openr1\. Missing: question, thinking, response"
    ):
        stage.traces(config(tmp_path, SHAPES["LIMO"].rows, format=FileFormat.openr1), store)


def test_format_can_be_forced_on_texts_that_it_is_not_recognised_by(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [{"prompt": QUESTION, "answer": "\u4e09\u52a0\u56db\u3002"}]
    (trace,) = read(stage.traces(config(tmp_path, rows, format=FileFormat.cts), store))
    assert trace.thinking == "\u4e09\u52a0\u56db\u3002"
    rows = SHAPES["OpenThoughts3-1.2M"].rows
    assert read(stage.traces(config(tmp_path, rows, format=FileFormat.openthoughts), store))[0].thinking == THINKING


def test_column_that_is_missing_is_empty_if_the_others_are_named(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [{"question": QUESTION, "thinking": THINKING}]
    (trace,) = read(stage.traces(config(tmp_path, rows, columns={"thinking": "thinking"}), store))
    assert (trace.id, trace.response, trace.answer) == ("row-1", "", "")


def test_standard_columns_without_ids_are_named_by_their_number(store: ArtifactStore, tmp_path: Path) -> None:
    row = {"question": QUESTION, "thinking": THINKING, "response": RESPONSE, "answer": 7}
    assert [t.id for t in read(stage.traces(config(tmp_path, [row]), store))] == ["row-1"]


def test_rows_without_an_id_response_or_answer_among_others_are_used(store: ArtifactStore, tmp_path: Path) -> None:
    row = {"id": "a", "question": QUESTION, "thinking": THINKING, "response": RESPONSE, "answer": "7"}
    rows = [row, row | {"id": None}, *({k: v for k, v in row.items() if k != name} for name in ("id", "answer"))]
    rows[3]["id"] = "d"
    made = stage.traces(config(tmp_path, rows), store)
    assert [(trace.id, trace.answer) for trace in read(made)] == [("a", "7"), ("row-2", "7"), ("row-3", "7"), ("d", "")]
    assert made.facts["empty"] == {"answer": 1}


def test_row_of_another_format_is_counted_as_one(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [openr1(TEXT), {"conversations": [{"from": "gpt", "value": TEXT}]}]
    made = stage.traces(config(tmp_path, rows, format=FileFormat.openr1), store)
    assert made.manifest["dropped"] == {"missing field 'problem'": 1}


def test_rows_that_are_all_dropped_for_one_reason_say_how_to_read_them(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [{"instruction": QUESTION, "input": "", "output": THINKING}] * 2
    with pytest.raises(DataError, match=r"2 x no thinking tags .*Allowed: .*\(data\.columns\.thinking=COLUMN\)"):
        stage.traces(config(tmp_path, rows), store)


def test_files_of_several_formats_are_read_each_in_its_own(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        "a.jsonl": SHAPES["chat with reasoning"].rows[:1],
        "b.jsonl": [{"id": "b", "question": QUESTION, "thinking": THINKING, "response": RESPONSE, "answer": 7}],
        "c.jsonl": [{"why": "an index"}],
        "d.jsonl": [openr1(TEXT)],
    }
    for name, rows in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = JsonlDataConfig(name="mine", path=str(tmp_path / "*.jsonl"), validation_fraction=0.0)
    with caplog.at_level(logging.INFO):
        made = stage.traces(settings, store)
    assert [(trace.question, trace.thinking, trace.response) for trace in read(made)] == [
        (QUESTION, THINKING, RESPONSE)
    ] * 3
    assert made.manifest["dropped"] == {"in none of these formats, so read such files by themselves": 1}
    assert made.facts["read_as"] == ["chat", "cotpress", "openr1"]
    assert any("a.jsonl: read as chat: " in line and "d.jsonl: read as openr1: " in line for line in caplog.messages)


def test_files_of_one_format_keep_the_identity_of_a_single_reading(store: ArtifactStore, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        row = {"problem": QUESTION, "generations": [TEXT], "uuid": name, "answer": "7"}
        (tmp_path / name).write_text(json.dumps(row) + "\n", encoding="utf-8")
    settings = JsonlDataConfig(name="mine", path=str(tmp_path / "*.jsonl"), validation_fraction=0.0)
    assert stage.traces(settings, store).facts["read_as"] == "openr1"


@pytest.mark.parametrize("end", ["<|im_end|>", "<|im_end|>\n", "<|eot_id|>", EOS, "<|endoftext|><|im_end|>"])
def test_ends_of_turns_at_the_end_of_a_response_are_no_part_of_it(
    store: ArtifactStore, tmp_path: Path, end: str
) -> None:
    rows = [{"question": QUESTION, "response": f"{TEXT}{end}"},
            {"question": QUESTION, "thinking": THINKING, "response": f"{RESPONSE}{end}"},
            {"question": QUESTION, "thinking": f"so {end} x", "response": RESPONSE}]  # fmt: skip
    for columns in ({}, {"question": "question"}):
        made = read(stage.traces(config(tmp_path, rows, columns=columns), store))
        assert [(trace.thinking, trace.response) for trace in made] == [
            (THINKING, RESPONSE), (THINKING, RESPONSE), (f"so {end} x", RESPONSE)
        ]  # fmt: skip


@pytest.mark.parametrize(
    "question",
    [
        f"{BOS}<\uff5cUser\uff5c>{QUESTION}<\uff5cAssistant\uff5c><think>\n",
        f"<|im_start|>system\nBe exact.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    ],
)
def test_question_of_a_rendered_prompt_is_its_users_turn(store: ArtifactStore, tmp_path: Path, question: str) -> None:
    made = read(stage.traces(config(tmp_path, [{"prompt": question, "completion": TEXT}]), store))
    assert [(trace.question, trace.thinking) for trace in made] == [(QUESTION, THINKING)]


@pytest.mark.parametrize("question", ["What does <|im_start|>user mean?", "Is [INST] a word of Mistral?"])
def test_a_sign_of_a_template_inside_of_a_question_stays(store: ArtifactStore, tmp_path: Path, question: str) -> None:
    (trace,) = read(stage.traces(config(tmp_path, [{"prompt": question, "completion": TEXT}]), store))
    assert trace.question == question


def test_benchmark_needs_no_ids(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(f'{{"question": "{QUESTION}", "answer": 7}}\n{{"question": "1 + 1?", "answer": "2"}}\n')
    made = stage.problems(JsonlBenchmarkConfig(name="mine", path=str(path)), store)
    problems = read_records(made.file("problems.parquet"), Problem)
    assert [(p.id, p.question, p.answer) for p in problems] == [("row-1", QUESTION, "7"), ("row-2", "1 + 1?", "2")]


def test_benchmark_without_the_columns_says_how_to_name_them(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(f'{{"task": "{QUESTION}", "gold": 7}}\n')
    with pytest.raises(DataError, match=r"no column 'question'\..*Fix, call the column .* 'question' in the file$"):
        stage.problems(JsonlBenchmarkConfig(name="mine", path=str(path)), store)


def test_generations_that_are_objects_are_told(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [{"q": QUESTION, "outs": [{"text": TEXT}, {"text": TEXT}]}] * 2
    with pytest.raises(DataError, match=r"generations are objects .*such as outputs\[0\]\.text"):
        stage.traces(config(tmp_path, rows, columns={"question": "q", "response": "outs"}), store)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": THINKING},
        {"type": "thinking", "thinking": THINKING, "text": None},
        {"type": "reasoning", "text": THINKING, "thinking": None},
        {"type": "reasoning", "reasoning": THINKING},
    ],
)
def test_part_of_a_content_with_the_thinking_is_no_response(store: ArtifactStore, tmp_path: Path, part: Row) -> None:
    contents = {"user": [{"type": "text", "text": QUESTION}], "assistant": [part, {"type": "text", "text": RESPONSE}]}
    rows = [{"messages": [{"role": role, "content": content} for role, content in contents.items()]}]
    (trace,) = read(stage.traces(config(tmp_path, rows), store))
    assert (trace.question, trace.thinking, trace.response) == (QUESTION, THINKING, RESPONSE)


def test_turn_with_a_null_content_has_the_text_of_its_value(store: ArtifactStore, tmp_path: Path) -> None:
    turns = [("human", QUESTION), ("gpt", TEXT)]
    row = {"conversations": [{"from": name, "value": text, "content": None} for name, text in turns]}
    (trace,) = read(stage.traces(config(tmp_path, [row]), store))
    assert (trace.question, trace.thinking) == (QUESTION, THINKING)


def test_places_are_checked_as_settings(tmp_path: Path) -> None:
    for text in ("a[", "[0]", "a..b", "", "a|", "a[x]"):
        with pytest.raises(ConfigError, match=r"data\.columns\.question: got"):
            check_settings(config(tmp_path, [], columns={"question": text}), "data")


def test_texts_of_a_column_take_no_settings_of_traces(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.field: got 'x', and a setting of traces"):
        check_settings(config(tmp_path, [], field="x", generations="all"), "data")


def test_tags_in_a_text_column_are_not_compressed(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [{"x": "plain"}, {"x": TEXT}, {"x": UNCLOSED}]
    made = stage.traces(config(tmp_path, rows, field="x"), store)
    assert [(t.id, t.thinking, t.response) for t in read(made)] == [
        ("row-1", "plain", ""), ("row-2", THINKING, RESPONSE),
    ]  # fmt: skip
    assert made.facts["first_dropped"] == {"thinking is not closed": "line 3"}
    with pytest.raises(DataError, match="line 3: thinking is not closed"):
        stage.traces(config(tmp_path, rows, field="x", strict=True), store)


def test_lost_generation_is_an_error_if_strict(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: thinking is not closed.*data\.strict=false"):
        stage.traces(config(tmp_path, [openr1(TEXT, UNCLOSED)], generations="all", strict=True), store)


def test_standard_columns_keep_their_identity(store: ArtifactStore, tmp_path: Path) -> None:
    made = stage.traces(config(tmp_path, SHAPES["cotpress"].rows), store)
    settings = {*made.manifest["identity"]} - {"stage", "code"}
    assert settings == {"source", "format", "sha256", "limit", "validation_fraction"}
    assert not any("formats" in name or "answers" in name for name in made.manifest["identity"]["code"])


def test_rows_in_the_list_of_an_object_are_named_in_the_line_and_in_errors(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.json"
    settings = config(tmp_path, [])
    path.write_text(json.dumps({"version": 1, "data": [openr1(TEXT), openr1(TEXT, uuid="v")]}))
    with caplog.at_level(logging.INFO):
        artifact = stage.traces(replace(settings, path=str(path)), store)
        path.write_text(json.dumps({"data": [{"id": "a", "question": "q", "answer": "1"}]}))
        stage.problems(JsonlBenchmarkConfig(name="mine", path=str(path)), store)
    assert len(read(artifact)) == 2
    assert (
        "data=mine: read as openr1: 4 columns used (problem, generations, answer, uuid) of the rows in its list 'data'"
        in (caplog.messages)
    )
    assert "benchmark=mine: read as the rows in its list 'data'" in caplog.messages
    path.write_text(json.dumps({"data": [{"prob": "q"}]}))
    with pytest.raises(DataError, match=r"rows\.json' \(list 'data'\) has none of the known shapes.* It has: prob"):
        stage.traces(replace(settings, path=str(path)), store)


def test_object_around_several_lists_is_not_read_by_the_first_element_of_one(
    store: ArtifactStore, tmp_path: Path
) -> None:
    row = {"prob": "q", "gens": [TEXT]}
    with pytest.raises(
        DataError, match=r"If its rows are those in train or test, save that list as a \.json file"
    ) as error:
        stage.traces(config(tmp_path, [{"train": [row], "test": [row]}]), store)
    assert "[0]" not in str(error.value)


MESSAGE = {"role": "assistant", "content": TEXT}
PLACES = {"question": "m[0]", "response": "m[1].content"}


@pytest.mark.parametrize(
    ("good", "bad", "columns", "reason"),
    [
        ({"m": ["q", MESSAGE]}, {"m": ["q"]}, PLACES, "missing field 'thinking or m[1].content'"),
        ({"m": ["q", MESSAGE]}, {"m": []}, PLACES, "missing field 'm[0]'"),
        ({"m": ["q", MESSAGE]}, {"m": ["q", {"content": {"text": TEXT}}]}, PLACES, "wrong type of 'response'"),
        ({"m": ["q", MESSAGE]}, {"m": ["q", {"content": 5}]}, PLACES, "wrong type of 'response'"),
        (openr1(TEXT), {"problem": QUESTION}, {}, "missing field 'generations'"),
        (openr1(TEXT), {"problem": QUESTION, "generations": [[TEXT]]}, {}, "wrong type of 'response'"),
        (openr1(TEXT), {"problem": QUESTION, "generations": [None]}, {}, "empty thinking"),
        (openr1(TEXT), {"generations": [TEXT]}, {}, "missing field 'problem'"),
    ],
)
def test_row_without_a_nested_place_is_lost_with_the_place_as_its_reason(
    store: ArtifactStore, tmp_path: Path, good: Row, bad: Row, columns: dict[str, str], reason: str
) -> None:
    settings = config(tmp_path, [good, bad], columns=columns)
    artifact = stage.traces(settings, store)
    assert [trace.thinking for trace in read(artifact)] == [THINKING]
    assert (artifact.manifest["dropped"], artifact.facts["first_dropped"]) == ({reason: 1}, {reason: "line 2"})
    with pytest.raises(DataError, match=rf"line 2, field '\w+': {re.escape(reason)}\. Got: "):
        stage.traces(replace(settings, strict=True), store)


def test_lists_in_the_standard_columns_are_generations(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"id": "a", "question": QUESTION, "thinking": ["t", "u"], "response": ["r", "s"], "answer": "7"},
        {"id": "b", "question": QUESTION, "thinking": "v", "response": "w", "answer": "7"},
    ]
    with caplog.at_level(logging.INFO):
        traces = read(stage.traces(config(tmp_path, rows, generations="all"), store))
    assert "data=mine: read as cotpress: 5 columns used (question, thinking, response, answer, id)" in caplog.messages
    assert [(t.id, t.thinking, t.response) for t in traces] == [("a/0", "t", "r"), ("a/1", "u", "s"), ("b", "v", "w")]
