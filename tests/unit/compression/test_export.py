import json
from pathlib import Path

import numpy as np

from cotpress.compression.config import ExportFormat
from cotpress.compression.export import export
from cotpress.modeling_config import ChatConfig
from cotpress.records import CompressedTrace
from cotpress.tables import read_records


def row(i: int, marker: float | None) -> CompressedTrace:
    return CompressedTrace(
        id=f"t{i}", question="How many?", compressed_thinking="2+2 ü", response="It is 4.", answer="4", split="train",
        token_ids=np.array([1, 2], np.int32), keep_mask=np.array([True, True, False]), num_tokens=3, num_kept_tokens=2,
        target_ratio=0.7, actual_ratio=2 / 3, marker_ratio=marker,
    )  # fmt: skip


CHAT = ChatConfig(system="Think.", thinking_open="<t>", thinking_close="</t>", ratio_marker="|{ratio}|")
ASSISTANT = {"role": "assistant", "content": "<t>2+2 ü</t>It is 4."}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_trl_rows_are_prompt_and_completion_messages(tmp_path: Path) -> None:
    found = lines(export([row(0, 0.7), row(1, None)], ExportFormat.trl, tmp_path / "new", CHAT))
    system = {"role": "system", "content": "Think."}
    assert found[0] == {"prompt": [system, {"role": "user", "content": "How many?|0.7|"}], "completion": [ASSISTANT]}
    assert found[1]["prompt"] == [system, {"role": "user", "content": "How many?"}]


def test_openai_rows_are_one_conversation(tmp_path: Path) -> None:
    found = lines(
        export([row(0, None)], ExportFormat.openai, tmp_path, ChatConfig(thinking_open="", thinking_close=" "))
    )
    assert found == [{"messages": [
        {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "2+2 ü It is 4."},
    ]}]  # fmt: skip


def test_parquet_holds_the_rows_as_they_are(tmp_path: Path) -> None:
    path = export([row(0, 0.7)], ExportFormat.parquet, tmp_path, CHAT)
    (found,) = read_records(path, CompressedTrace)
    assert (found.id, found.keep_mask.tolist(), found.marker_ratio) == ("t0", [True, True, False], 0.7)


def test_nothing_but_the_finished_file_is_left(tmp_path: Path) -> None:
    files = [export([row(0, None)], format_, tmp_path, CHAT) for format_ in ExportFormat]
    assert sorted(tmp_path.iterdir()) == sorted(files)
