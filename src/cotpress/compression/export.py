"""Export of compressed rows in the formats of other trainers.

Texts are exported as they are: how another trainer tokenizes special tokens that one of them spells out is its matter.

A folder holds one export. It is complete if it has a manifest, which is removed first and written last, so that a file
that an interrupted export left is never taken for one.
"""

import json
import logging
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.compression.config import ExportFormat
from cotpress.errors import ConfigError, DataError
from cotpress.invocation import program
from cotpress.prompts import ChatConfig, ChatFormat, assistant_text, messages, render_chat
from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.settings import differences
from cotpress.store.artifacts import MANIFEST, file_sha256, fingerprint, plain, replaced, write_text_atomic
from cotpress.store.tables import RecordWriter

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
CARD = "README.md"
_CARD = """---
configs:
- config_name: default
  data_files: {file}
---

Compressed chains of thought, made with cotpress; `manifest.json` says from what.
"""
DATASET_INFO = "dataset_info.json"  # index file in the `dataset_dir` of LLaMA-Factory
DATASET = "compressed"  # name of the data in `DATASET_INFO`, for LLaMA-Factory's setting `dataset`
_OWN_FIX = "Fix: output=DIR with a folder of its own, or leave output out, or remove that export"


@dataclass(slots=True, kw_only=True)
class Portion:
    """Rows that were cut to one ratio, and the thinking tokens before and after."""

    asked: float
    num_rows: int = 0
    num_tokens: int = 0
    num_kept_tokens: int = 0
    actual: float = 0.0


class Account:
    """Counts over the rows of an export, taken while they are written.

    Attributes:
        num_rows: Number of rows.
        num_empty_responses: Number of rows that end after the thinking.
        longest: The row with the most kept tokens.
    """

    def __init__(self) -> None:
        self.num_rows = self.num_empty_responses = 0
        self.longest: CompressedTrace | None = None
        self._portions: dict[float, Portion] = {}

    def counting(self, rows: Iterable[CompressedTrace]) -> Iterator[CompressedTrace]:
        """Yield the rows and count them."""
        for row in rows:
            part = self._portions.setdefault(row.target_ratio, Portion(asked=row.target_ratio))
            part.num_rows += 1
            part.num_tokens += row.num_tokens
            part.num_kept_tokens += row.num_kept_tokens
            part.actual = part.num_kept_tokens / part.num_tokens
            self.num_rows += 1
            self.num_empty_responses += not row.response.strip()
            if self.longest is None or row.num_kept_tokens > self.longest.num_kept_tokens:
                self.longest = row
            yield row

    @property
    def portions(self) -> list[Portion]:
        """The rows by the ratio that was asked for, the lowest first; a single one without mixed ratios."""
        return sorted(self._portions.values(), key=lambda part: part.asked)


def check_folder(output: Path, format_: ExportFormat, settings: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another export, which this one would replace or stand beside.

    Args:
        output: Folder of the export; it need not exist.
        format_: Format of the export.
        settings: Everything that determines the export, as JSON values.

    Raises:
        ConfigError: The folder holds the export of other settings, a manifest of something else, or the file of an
            unfinished export in another format.
    """
    if (output / MANIFEST).exists():
        try:
            before = json.loads((output / MANIFEST).read_text(encoding="utf-8")).get("settings")
        except (OSError, ValueError, AttributeError, RecursionError):
            before = None
        if before not in (settings, fingerprint(settings)):  # their hash is that of an earlier release
            told = f": {differences(before, settings)}" if isinstance(before, dict) else ""
            raise ConfigError(f"output: '{output}' holds the export of other settings{told}. {_OWN_FIX}")
    elif others := [name for kind, name in FILES.items() if kind is not format_ and (output / name).exists()]:
        raise ConfigError(f"output: '{output}' holds {', '.join(others)} of another, unfinished export. {_OWN_FIX}")


def write_manifest(file: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Complete an export: describe it, and everything that it was made from, in `manifest.json` beside its file."""
    files = {file.name: file_sha256(file)}
    manifest = {"file": file.name, "files": files, "settings": settings, **plain(about)}
    write_text_atomic(file.parent / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def export(
    rows: Iterable[CompressedTrace],
    format_: ExportFormat,
    output: Path,
    chat: ChatConfig,
    masking: ChatFormat | None = None,
) -> Path:
    """Write the rows into the folder `output`, atomically and one after the other, and return the file.

    The conversation formats hold texts, in the order of the rows: the system text if there is one, the question with
    its ratio marker, and the assistant's turn `thinking_open thinking thinking_close response`. Trainers tokenize these
    texts anew, so token boundaries beside dropped tokens may differ from those of a student trained here.

    With `masking`, which makes the training sequences, TRL's format holds these as tokens, `input_ids`, with a mask of
    those that have a loss, `assistant_masks`: `SFTTrainer` (TRL 1.16.0) makes labels of no other tokens.

    Raises:
        DataError: The folder has a `dataset_info.json` that cannot be read (llamafactory only).
    """
    output.mkdir(parents=True, exist_ok=True)
    path, conversations = output / FILES[format_], (_conversation(row, chat) for row in rows)
    match format_:
        case ExportFormat.parquet:
            with replaced(path) as temporary, RecordWriter(temporary, CompressedTrace) as writer:
                writer.write(rows)
        case ExportFormat.trl if masking is not None:
            _write_lines(path, (_masked(row, masking) for row in rows))
        case ExportFormat.trl:
            _write_lines(path, ({"prompt": turns[:-1], "completion": turns[-1:]} for turns in conversations))
        case ExportFormat.openai | ExportFormat.llamafactory:
            _write_lines(path, ({"messages": turns} for turns in conversations))
            if format_ is ExportFormat.llamafactory:
                _describe_for_llamafactory(output / DATASET_INFO, path.name)
    _describe_for_datasets(output / CARD, path.name)
    return path


def warn_of_template(row: CompressedTrace, chat: ChatConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Warn if the model's chat template removes the thinking from the assistant's turn, as that of R1 does.

    Trainers that render conversations with that template (TRL, the OpenAI format) would train on the response alone.
    The export does not need the template: without one, or with one that fails, a line says that this was not checked.
    """
    try:
        rendered = render_chat(tokenizer, _conversation(row, chat), add_generation_prompt=False)
    except Exception as error:  # a template is a program of the model's author and may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        log.info(
            "not checked whether the model's chat template keeps the thinking of these conversations, as it cannot "
            "render them: %s", textwrap.shorten(reason, 200, placeholder=" ..."),
        )  # fmt: skip
        return
    if row.compressed_thinking.strip() not in rendered:
        log.warning(
            "the chat template of this model removes the thinking from the assistant's turn: a trainer that applies it "
            "to these conversations trains on the response alone. Fix: give the trainer a template that keeps it, or "
            "train with %s",
            program("train"),
        )


def _describe_for_datasets(path: Path, file_name: str) -> None:
    """Name the file with the rows in the folder's card, as `datasets` would read the manifest as rows too.

    A card that the user wrote stays.
    """
    own = {_CARD.format(file=name).encode() for name in FILES.values()}
    if not path.exists() or path.read_bytes() in own:
        write_text_atomic(path, _CARD.format(file=file_name))


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
    text = assistant_text(chat, row.compressed_thinking, row.response)
    return [*messages(chat, row.question, row.marker_ratio), {"role": "assistant", "content": text}]


def _masked(row: CompressedTrace, chat: ChatFormat) -> dict[str, list[int]]:
    prompt, completion = chat.prompt_ids(row.question), chat.completion_ids(row.token_ids.tolist(), row.response)
    weights = [1.0] * len(row.token_ids) if row.loss_weights is None else row.loss_weights.tolist()
    mask = [int(weight > 0) for weight in chat.completion_weights(weights, completion)]
    return {"input_ids": [*prompt, *completion], "assistant_masks": [0] * len(prompt) + mask}


def _write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    write_text_atomic(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
