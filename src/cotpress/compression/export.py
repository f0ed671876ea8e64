"""Compressed rows in the formats that other trainers read."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from cotpress.artifacts import write_text_atomic
from cotpress.compression.config import ExportFormat
from cotpress.modeling_config import ChatConfig
from cotpress.prompts import marker_text
from cotpress.records import CompressedTrace
from cotpress.tables import write_records

FILES = {
    ExportFormat.parquet: "compressed.parquet",
    ExportFormat.trl: "compressed.trl.jsonl",
    ExportFormat.openai: "compressed.openai.jsonl",
}
"""Name of the exported file, by format."""


def export(rows: Sequence[CompressedTrace], format_: ExportFormat, output: Path, chat: ChatConfig) -> Path:
    """Write the rows into the folder `output` and return the file; it appears whole or not at all.

    The conversation formats hold texts, in the order of the rows: the system text if there is one, the question with
    its ratio marker, and the assistant's turn `thinking_open thinking thinking_close response`.

    Args:
        rows: Compressed traces.
        format_: What to write.
        output: Folder; created if need be.
        chat: How the student's conversations are written.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / FILES[format_]
    match format_:
        case ExportFormat.parquet:
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            write_records(temporary, rows, CompressedTrace)
            temporary.replace(path)
        case ExportFormat.trl:
            write_text_atomic(path, _lines({"prompt": _prompt(r, chat), "completion": [_turn(r, chat)]} for r in rows))
        case ExportFormat.openai:
            write_text_atomic(path, _lines({"messages": [*_prompt(r, chat), _turn(r, chat)]} for r in rows))
    return path


def _prompt(row: CompressedTrace, chat: ChatConfig) -> list[dict[str, str]]:
    question = row.question + marker_text(chat.ratio_marker, row.marker_ratio)
    system = [] if chat.system is None else [{"role": "system", "content": chat.system}]
    return [*system, {"role": "user", "content": question}]


def _turn(row: CompressedTrace, chat: ChatConfig) -> dict[str, str]:
    text = f"{chat.thinking_open}{row.compressed_thinking}{chat.thinking_close}{row.response}"
    return {"role": "assistant", "content": text}


def _lines(rows: Iterable[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
