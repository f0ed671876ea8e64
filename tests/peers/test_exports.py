"""Exports, read by the tools that they are for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cotpress.prompts import messages
from peers.conftest import PROGRAMS, SYSTEM, Exports, Peer
from support.commands import Command

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]

FILES = {
    "parquet": "compressed.parquet",
    "trl": "compressed.trl.jsonl",
    "openai": "compressed.openai.jsonl",
    "llamafactory": "compressed.llamafactory.jsonl",
}


def trained_text(exports: Exports, index: int) -> tuple[list[int], str]:
    """Prompt tokens of our own training sequence, and the text of its completion."""
    row, chat = exports.rows[index], exports.chat
    completion = chat.completion_ids(chat.text_ids(row.compressed_thinking), row.response)
    return chat.prompt_ids(row.question, row.marker_ratio), chat.decoded(completion)


def same_training(exports: Exports, index: int, ids: list[int], labels: list[int]) -> None:
    num_prompt = sum(label == -100 for label in labels)
    prompt, completion = trained_text(exports, index)
    assert labels[num_prompt:] == ids[num_prompt:], "every token of the assistant's turn is trained on"
    assert ids[:num_prompt] == prompt
    assert exports.chat.decoded(ids[num_prompt:]).rstrip("\n") == completion


@pytest.mark.parametrize("whole_folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("format_", FILES)
def test_datasets_reads_every_export(
    format_: str, whole_folder: bool, current: Peer, exports: Exports, tmp_path: Path
) -> None:
    folder = exports.folder(format_)
    kind = "parquet" if format_ == "parquet" else "json"
    given = [str(folder)] if whole_folder else [kind, str(folder / FILES[format_])]
    rows: list[dict[str, Any]] = json.loads(
        current("python", str(PROGRAMS / "load.py"), *given, cwd=tmp_path).splitlines()[-1]
    )
    assert len(rows) == len(exports.rows)
    assert {row.marker_ratio for row in exports.rows} == {0.5, 0.9}
    for row, ours in zip(rows, exports.rows, strict=True):
        if format_ == "parquet":
            assert (row["id"], row["keep_mask"]) == (ours.id, ours.keep_mask.tolist())
        else:
            turns = [*row["prompt"], *row["completion"]] if format_ == "trl" else row["messages"]
            asked = messages(exports.chat._chat, ours.question, ours.marker_ratio)
            assert turns[:-1] == asked
            assert turns[0] == {"role": "system", "content": SYSTEM}
            assert turns[-1]["content"] == f"<think>\n{ours.compressed_thinking}\n</think>\n\n{ours.response}"


def test_trl_takes_a_step_on_its_export(current: Peer, exports: Exports, tmp_path: Path) -> None:
    data = exports.folder("trl") / FILES["trl"]
    program = str(PROGRAMS / "trl_step.py")
    printed = current("python", program, str(exports.model), str(data), str(tmp_path / "out"), cwd=tmp_path)
    result = json.loads(printed.splitlines()[-1])
    for index, row in enumerate(result["rows"]):
        same_training(exports, index, row["input_ids"], row["labels"])
    log = result["log"]
    print(f"\nTRL: {len(result['rows'])} rows, step {log['global_step']}, loss {log['loss']:.3f}")
    assert log["global_step"] == 1
    assert math.isfinite(log["loss"])
    assert log["grad_norm"] > 0


def test_trl_has_a_loss_on_the_tokens_of_the_mask(
    current: Peer, exports: Exports, peers_command: Command, tmp_path: Path
) -> None:
    done = peers_command(
        "compress.py", "model=smollm2", "data.num_traces=24", "scorer=random", "compression.mode=mask_loss",
        "ratio=0.5", "export=trl", f"output={tmp_path / 'masked'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    data = tmp_path / "masked" / FILES["trl"]
    program = str(PROGRAMS / "trl_step.py")
    printed = current("python", program, str(exports.model), str(data), str(tmp_path / "out"), cwd=tmp_path)
    result = json.loads(printed.splitlines()[-1])
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    ours = sorted((x["input_ids"], x["assistant_masks"]) for x in lines)
    theirs = sorted((row["input_ids"], [int(label != -100) for label in row["labels"]]) for row in result["rows"])
    assert theirs == ours
    assert result["log"]["grad_norm"] > 0


def test_llamafactory_takes_a_step_on_its_export(llamafactory: Peer, exports: Exports, tmp_path: Path) -> None:
    folder = exports.folder("llamafactory")
    settings = {
        "model_name_or_path": str(exports.model), "template": "smollm2", "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "lora_target": "all", "dataset_dir": str(folder), "dataset": "compressed",
        "cutoff_len": 2048, "output_dir": str(tmp_path / "out"), "max_steps": 1, "logging_steps": 1,
        "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": True, "overwrite_cache": True,
    }  # fmt: skip
    (tmp_path / "sft.yaml").write_text(json.dumps(settings))  # JSON is YAML
    printed = llamafactory("llamafactory-cli", "train", str(tmp_path / "sft.yaml"), cwd=tmp_path)
    lines = printed.splitlines()
    ids, labels = (json.loads(lines[lines.index(f"{name}:") + 1]) for name in ("input_ids", "label_ids"))
    same_training(exports, 0, ids, labels)
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    print(f"\nLLaMA-Factory: step {state['global_step']}, loss {state['log_history'][0]['loss']:.3f}")
    assert state["global_step"] == 1
    assert math.isfinite(state["log_history"][0]["loss"])
    assert state["log_history"][0]["grad_norm"] > 0
