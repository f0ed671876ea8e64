import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotpress.compression.config import ExportFormat
from cotpress.compression.export import (
    CARD,
    DATASET,
    DATASET_INFO,
    export,
    is_own_card,
    warn_of_template,
    write_card,
    write_manifest,
)
from cotpress.errors import DataError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatConfig, ChatFormat
from cotpress.records import CompressedTrace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records

TINY = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")


def row(i: int, marker: float | None) -> CompressedTrace:
    return CompressedTrace(
        id=f"t{i}", question="How many?", compressed_thinking="2+2 ü", response="It is 4.", answer="4", split="train",
        token_ids=np.array([1, 2], np.int32), keep_mask=np.array([True, True, False]), num_tokens=3, num_kept_tokens=2,
        target_ratio=0.7, actual_ratio=2 / 3, marker_ratio=marker,
    )  # fmt: skip


CHAT = ChatConfig(system="Think.", thinking_open="<t>", thinking_close="</t>", ratio_marker="|{ratio}|")
ROWS = [row(0, 0.7), row(1, None)]
SYSTEM = {"role": "system", "content": "Think."}
USERS = [{"role": "user", "content": "How many?|0.7|"}, {"role": "user", "content": "How many?"}]
ASSISTANT = {"role": "assistant", "content": "<t>2+2 ü</t>It is 4."}


def loaded(path: Path, folder: Path) -> Any:
    """Load the file as users of a trainer do."""
    datasets = pytest.importorskip("datasets", reason="needs the extra dev")
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(folder / "cache"))


def test_trl_rows_are_prompt_and_completion_messages(tmp_path: Path) -> None:
    exported = loaded(export(ROWS, ExportFormat.trl, tmp_path / "new", CHAT), tmp_path)
    assert exported.to_list() == [{"prompt": [SYSTEM, user], "completion": [ASSISTANT]} for user in USERS]


def test_masked_rows_are_tokens_with_a_mask_for_trl(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY, ArtifactStore(tmp_path / "store"))
    chat = ChatFormat(tokenizer, CHAT)
    masked = replace(row(0, None), loss_weights=np.array([1.0, 0.0], np.float32))
    path = export([masked, row(1, None)], ExportFormat.trl, tmp_path, CHAT, chat)
    exported = loaded(path, tmp_path).to_list()
    for line, weights in zip(exported, ([1, 0], [1, 1]), strict=True):
        prompt, completion = chat.prompt_ids("How many?"), chat.completion_ids([1, 2], "It is 4.")
        assert line["input_ids"] == [*prompt, *completion]
        first = len(prompt) + len(chat.thinking_start())
        assert line["assistant_masks"][first : first + 2] == weights
        assert line["assistant_masks"][:first] == [0] * len(prompt) + [1] * len(chat.thinking_start())
        assert line["assistant_masks"][first + 2 :] == [1] * (len(prompt) + len(completion) - first - 2)


def test_row_without_thinking_and_tags_is_its_response_alone(tmp_path: Path) -> None:
    empty = replace(row(0, None), compressed_thinking="", token_ids=np.array([], np.int32))
    for chat, text in ((CHAT, "<t></t>It is 4."), (ChatConfig(thinking_open="", thinking_close="\n\n"), "It is 4.")):
        (exported,) = loaded(export([empty], ExportFormat.openai, tmp_path, chat), tmp_path)
        assert exported["messages"][-1]["content"] == text


def test_openai_rows_are_conversations_that_end_with_the_assistant(tmp_path: Path) -> None:
    path = export(ROWS, ExportFormat.openai, tmp_path, CHAT)
    exported = loaded(path, tmp_path).to_list()
    assert exported == [{"messages": [SYSTEM, user, ASSISTANT]} for user in USERS]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == exported  # one object per line, nothing else in it


def test_model_without_system_text_or_tags_has_none(tmp_path: Path) -> None:
    bare = ChatConfig(thinking_open="", thinking_close=" ")
    (exported,) = loaded(export([row(0, None)], ExportFormat.openai, tmp_path, bare), tmp_path)
    assert exported["messages"] == [
        {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "2+2 ü It is 4."},
    ]  # fmt: skip


def test_empty_system_text_is_a_message_so_that_templates_add_none_of_their_own(tmp_path: Path) -> None:
    (exported,) = loaded(export([row(0, None)], ExportFormat.trl, tmp_path, replace(CHAT, system="")), tmp_path)
    assert exported["prompt"][0] == {"role": "system", "content": ""}


def test_dataset_info_names_file_columns_and_roles(tmp_path: Path) -> None:
    (tmp_path / DATASET_INFO).write_text('{"mine": {"file_name": "mine.json"}}')
    export(ROWS, ExportFormat.llamafactory, tmp_path, CHAT)
    info = json.loads((tmp_path / DATASET_INFO).read_text())
    assert info["mine"] == {"file_name": "mine.json"}
    entry = info[DATASET]
    assert entry["formatting"] == "sharegpt"
    tags = entry["tags"]
    turns = [
        [(turn[tags["role_tag"]], turn[tags["content_tag"]]) for turn in exported[entry["columns"]["messages"]]]
        for exported in loaded(tmp_path / entry["file_name"], tmp_path)
    ]
    roles = [tags["system_tag"], tags["user_tag"], tags["assistant_tag"]]
    assert turns == [
        list(zip(roles, (SYSTEM["content"], user["content"], ASSISTANT["content"]), strict=True)) for user in USERS
    ]


@pytest.mark.parametrize("content", ["{broken", "[]"])
def test_unreadable_dataset_info_is_an_error_and_stays(tmp_path: Path, content: str) -> None:
    (tmp_path / DATASET_INFO).write_text(content)
    with pytest.raises(DataError, match=r"no JSON object: .* Fix: remove it"):
        export(ROWS, ExportFormat.llamafactory, tmp_path, CHAT)
    assert (tmp_path / DATASET_INFO).read_text() == content


def test_parquet_contains_the_rows_unchanged(tmp_path: Path) -> None:
    path = export([row(0, 0.7)], ExportFormat.parquet, tmp_path, CHAT)
    (exported,) = read_records(path, CompressedTrace)
    assert (exported.id, exported.keep_mask.tolist(), exported.marker_ratio) == ("t0", [True, True, False], 0.7)
    (elsewhere,) = loaded(path, tmp_path)
    assert {name: elsewhere[name] for name in ("id", "keep_mask", "token_ids", "target_ratio", "marker_ratio")} == {
        "id": "t0", "keep_mask": [True, True, False], "token_ids": [1, 2], "target_ratio": 0.7, "marker_ratio": 0.7,
    }  # fmt: skip


FILES = [format_ for format_ in ExportFormat if format_ is not ExportFormat.datasets]


def test_only_finished_files_remain(tmp_path: Path) -> None:
    files = [export([row(0, None)], format_, tmp_path, CHAT) for format_ in FILES]
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / DATASET_INFO])


def test_folder_for_load_from_disk_has_the_rows_of_parquet(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra dev")
    parquet = loaded(export(ROWS * 200, ExportFormat.parquet, tmp_path / "parquet", CHAT), tmp_path)
    folder = export(ROWS * 200, ExportFormat.datasets, tmp_path / "saved", CHAT)
    write_manifest(folder, {}, {})
    saved = datasets.load_from_disk(str(folder))
    assert (saved.to_list(), saved.column_names) == (parquet.to_list(), parquet.column_names)
    assert saved.features == parquet.features
    assert sorted(path.name for path in folder.iterdir()) == [
        "data-00000-of-00001.arrow", "dataset_info.json", "manifest.json", "state.json",
    ]  # fmt: skip
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert str(tmp_path).encode() not in b"".join(before.values())
    del saved
    export(ROWS * 200, ExportFormat.datasets, folder, CHAT)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_outdated_parts_of_a_saved_folder_are_removed(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra dev")
    datasets.Dataset.from_list([{"x": i} for i in range(4)]).save_to_disk(str(tmp_path), num_shards=4)
    export(ROWS, ExportFormat.datasets, tmp_path, CHAT)
    assert len([*tmp_path.glob("*.arrow")]) == 1
    assert len(datasets.load_from_disk(str(tmp_path))) == len(ROWS)


def test_edited_card_stays_and_an_own_one_is_replaced(tmp_path: Path) -> None:
    write_card(tmp_path, "# One\n")
    assert is_own_card((tmp_path / CARD).read_bytes())
    write_card(tmp_path, "# Two\n")
    assert (tmp_path / CARD).read_text().startswith("# Two\n<!-- cotpress ")
    edited = (tmp_path / CARD).read_text().replace("Two", "Mine")
    for content in (edited.encode(), b"mine\xff"):
        (tmp_path / CARD).write_bytes(content)
        write_card(tmp_path, "# Three\n")
        assert (tmp_path / CARD).read_bytes() == content


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


def test_template_that_removes_the_thinking_gives_a_warning(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = load_tokenizer(TINY, store)
    with caplog.at_level(logging.WARNING):
        warn_of_template(ROWS[0], CHAT, tokenizer)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        tokenizer.chat_template = (
            "{% for m in messages %}{% set c = m['content'] %}"
            "{% if '</t>' in c %}{% set c = c.split('</t>')[-1] %}{% endif %}{{ c }}{% endfor %}"
        )
        warn_of_template(ROWS[0], CHAT, tokenizer)
    assert "removes the thinking" in caplog.text
