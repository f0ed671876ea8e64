"""Export of compressed rows in the formats of other trainers."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cotpress.compression.config import ExportFormat
from cotpress.errors import DataError
from cotpress.prompts import ChatConfig, messages, render_chat
from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.tables import write_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FILES = {
    ExportFormat.parquet: COMPRESSED_FILE,
    ExportFormat.trl: "compressed.trl.jsonl",
    ExportFormat.llamafactory: "compressed.llamafactory.jsonl",
    ExportFormat.openai: "compressed.openai.jsonl",
}
"""Names of the exported files."""
DATASET_INFO = "dataset_info.json"  # index file in the `dataset_dir` of LLaMA-Factory
DATASET = "compressed"  # name of the data in `DATASET_INFO`, for LLaMA-Factory's setting `dataset`


def export(rows: Sequence[CompressedTrace], format_: ExportFormat, output: Path, chat: ChatConfig) -> Path:
    """Write the rows into the folder `output`, atomically, and return the file.

    The conversation formats hold texts, in the order of the rows: the system text if there is one, the question with
    its ratio marker, and the assistant's turn `thinking_open thinking thinking_close response`. Trainers tokenize these
    texts anew, so token boundaries beside dropped tokens may differ from those of a student trained here.

    Raises:
        DataError: The folder has a `dataset_info.json` that cannot be read (llamafactory only).
    """
    output.mkdir(parents=True, exist_ok=True)
    path, conversations = output / FILES[format_], (_conversation(row, chat) for row in rows)
    match format_:
        case ExportFormat.parquet:
            write_records(path, rows, CompressedTrace)
        case ExportFormat.trl:
            write_text_atomic(path, _lines({"prompt": turns[:-1], "completion": turns[-1:]} for turns in conversations))
        case ExportFormat.openai | ExportFormat.llamafactory:
            write_text_atomic(path, _lines({"messages": turns} for turns in conversations))
            if format_ is ExportFormat.llamafactory:
                _describe_for_llamafactory(output / DATASET_INFO, path.name)
    return path


def warn_of_template(row: CompressedTrace, chat: ChatConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Warn if the model's chat template removes the thinking from the assistant's turn, as that of R1 does.

    Trainers that render conversations with that template (TRL, the OpenAI format) would train on the response alone.
    """
    rendered = render_chat(tokenizer, _conversation(row, chat), add_generation_prompt=False)
    if row.compressed_thinking.strip() not in rendered:
        log.warning(
            "the chat template of this model removes the thinking from the assistant's turn: a trainer that applies it "
            "to these conversations trains on the response alone. Fix: give the trainer a template that keeps it, or "
            "train with train.py"
        )


def _describe_for_llamafactory(path: Path, file_name: str) -> None:
    """Add the file to `dataset_info.json` and keep its other entries."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        tags = {"role_tag": "role", "content_tag": "content"}
        tags |= {f"{role}_tag": role for role in ("user", "assistant", "system")}
        columns = {"messages": "messages"}
        entries[DATASET] = {"file_name": file_name, "formatting": "sharegpt", "columns": columns, "tags": tags}
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"'{path}' is no JSON object: {error}. Fix: remove it, or choose another output=DIR") from error
    write_text_atomic(path, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def _conversation(row: CompressedTrace, chat: ChatConfig) -> list[dict[str, str]]:
    text = f"{chat.thinking_open}{row.compressed_thinking}{chat.thinking_close}{row.response}"
    return [*messages(chat, row.question, row.marker_ratio), {"role": "assistant", "content": text}]


def _lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
