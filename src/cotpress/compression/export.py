"""Export of compressed rows in the formats of other trainers.

Texts are exported as they are: how another trainer tokenizes special tokens that one of them spells out is its matter.

A folder holds one export. It is complete if it has a manifest, which is removed first and written last, so that a file
that an interrupted export left is never taken for one.
"""

import hashlib
import itertools
import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cotpress.compression.config import ExportFormat
from cotpress.errors import ConfigError, DataError, MissingExtraError, install_extra
from cotpress.invocation import program
from cotpress.modeling.upload import Repository
from cotpress.prompts import ChatConfig, ChatFormat, assistant_text, messages, render_chat
from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.settings import differences
from cotpress.store.artifacts import (
    MANIFEST,
    file_sha256,
    fingerprint,
    follow_umask,
    plain,
    replaced,
    write_text_atomic,
)
from cotpress.store.local_names import published, without_paths
from cotpress.store.tables import ROWS_AT_ONCE, RecordWriter, schema, to_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FILES = {
    ExportFormat.parquet: COMPRESSED_FILE,
    ExportFormat.trl: "compressed.trl.jsonl",
    ExportFormat.llamafactory: "compressed.llamafactory.jsonl",
    ExportFormat.openai: "compressed.openai.jsonl",
    ExportFormat.datasets: "state.json",
}
"""Names of the exported files; of a folder for `load_from_disk` that which it is recognised by."""
CARD = "README.md"
_SIGNED = "<!-- cotpress {} -->\n"
"""Last line of a card, with a hash of the lines before it: a card that somebody has edited has another hash."""
_PARTIAL = ".partial"
_ON_HUB = frozenset({CARD, ".gitattributes"})
"""Files that a new data set of the hub may have."""
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
            content = (output / MANIFEST).read_bytes()
        except OSError:
            content = b""
        _check_manifest(content, settings, f"output: '{output}'", _OWN_FIX)
    elif others := [name for kind, name in FILES.items() if kind is not format_ and (output / name).exists()]:
        raise ConfigError(f"output: '{output}' holds {', '.join(others)} of another, unfinished export. {_OWN_FIX}")
    elif (
        format_ is ExportFormat.datasets and (output / DATASET_INFO).exists() and not (output / FILES[format_]).exists()
    ):
        raise ConfigError(f"output: '{output}' holds a {DATASET_INFO} of something else. {_OWN_FIX}")


def check_repository(repository: Repository, settings: Mapping[str, Any]) -> None:
    """Refuse a data set of the hub that the account may not write, or that holds something else; as `check_folder`.

    Raises:
        ConfigError: Its name is no hub id, or it holds other files, or the export of other settings.
        HubError: The hub refuses the account, or cannot be reached.
    """
    repository.check_name()  # a job of a multirun adds to the name
    repository.check_account()
    files = repository.files()
    place, fix = f"output: '{repository.setting.partition('=')[2]}{repository.name}'", "Fix: a name of its own"
    if MANIFEST in files:
        _check_manifest(repository.read(MANIFEST), settings, place, fix)
    elif others := sorted({*files} - _ON_HUB):
        raise ConfigError(f"{place} holds other files: {', '.join(others[:5])}. {fix}")


def _check_manifest(content: bytes, settings: Mapping[str, Any], place: str, fix: str) -> None:
    try:
        manifest = json.loads(content)
        before, identity = manifest.get("settings"), manifest.get("settings_id")
    except (ValueError, AttributeError, RecursionError):
        before = identity = None
    # Earlier releases wrote the settings themselves, or their hash alone.
    same = before in (settings, fingerprint(settings)) if identity is None else identity == fingerprint(settings)
    if not same:
        told = differences(before, published(settings)) if isinstance(before, dict) else ""
        raise ConfigError(f"{place} holds the export of other settings{f': {told}' if told else ''}. {fix}")


def write_manifest(path: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Complete an export: describe it, and everything that it was made from, in its `manifest.json`.

    The manifest is published with the rows. So it has the names of local files in place of their paths, and the hash of
    all settings (`settings_id`) tells exports of equal names apart.

    Args:
        path: The exported file, or the folder for `load_from_disk`.
        settings: Everything that determines the export, as JSON values.
        about: Further entries.
    """
    folder = path if path.is_dir() else path.parent
    files = _saved_files(folder) if path.is_dir() else [path]
    manifest = {
        "file": FILES[ExportFormat.datasets] if path.is_dir() else path.name,
        "files": {file.name: file_sha256(file) for file in files},
        "settings": published(settings),
        "settings_id": fingerprint(settings),
        **without_paths(plain(about)),
    }
    write_text_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


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

    Of the format `datasets` the folder itself is returned.

    Raises:
        DataError: The folder has a `dataset_info.json` that cannot be read (llamafactory only).
        MissingExtraError: `datasets` is not installed, and it is the format.
    """
    output.mkdir(parents=True, exist_ok=True)
    path, conversations = output / FILES[format_], (_conversation(row, chat) for row in rows)
    match format_:
        case ExportFormat.parquet:
            with replaced(path) as temporary, RecordWriter(temporary, CompressedTrace) as writer:
                writer.write(rows)
        case ExportFormat.datasets:
            _save_to_disk(rows, output)
            return output
        case ExportFormat.trl if masking is not None:
            _write_lines(path, (_masked(row, masking) for row in rows))
        case ExportFormat.trl:
            _write_lines(path, ({"prompt": turns[:-1], "completion": turns[-1:]} for turns in conversations))
        case ExportFormat.openai | ExportFormat.llamafactory:
            _write_lines(path, ({"messages": turns} for turns in conversations))
            if format_ is ExportFormat.llamafactory:
                _describe_for_llamafactory(output / DATASET_INFO, path.name)
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


def require_datasets(format_: ExportFormat) -> None:
    """Raise a `MissingExtraError` if a format needs the library `datasets`, which is not installed."""
    if format_ is ExportFormat.datasets:
        try:
            import datasets  # noqa: F401 (its absence is reported before hours of work)
        except ModuleNotFoundError:
            raise MissingExtraError("export=datasets", "datasets", install_extra("hub")) from None


def _save_to_disk(rows: Iterable[CompressedTrace], output: Path) -> None:
    """Write a folder for `load_from_disk`; `state.json`, without which it is none, comes last."""
    require_datasets(ExportFormat.datasets)
    import datasets

    partial, left = output / _PARTIAL, iter(rows)
    shutil.rmtree(partial, ignore_errors=True)  # of a killed command
    partial.mkdir()
    shown = datasets.is_progress_bar_enabled()
    try:
        arrow = partial / "rows.arrow"
        with pa.ipc.new_stream(arrow, schema(CompressedTrace)) as stream:
            while batch := [*itertools.islice(left, ROWS_AT_ONCE)]:
                stream.write_table(to_table(batch, CompressedTrace))
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        table = datasets.table.MemoryMappedTable.from_file(str(arrow))
        made = datasets.Dataset(table, split=datasets.Split.TRAIN, fingerprint=file_sha256(arrow)[:16])
        made.save_to_disk(str(partial / "saved"))
        del made, table
        for old in _saved_files(output):
            old.unlink()
        for file in sorted(_saved_files(partial / "saved"), key=lambda f: f.name == FILES[ExportFormat.datasets]):
            follow_umask(file)
            file.replace(output / file.name)
    finally:
        if shown:
            datasets.enable_progress_bars()
        shutil.rmtree(partial, ignore_errors=True)


def _saved_files(folder: Path) -> list[Path]:
    """The files of a folder for `load_from_disk`."""
    names = ("data-*-of-*.arrow", DATASET_INFO, FILES[ExportFormat.datasets])
    return sorted(file for name in names for file in folder.glob(name))


def write_card(folder: Path, text: str) -> None:
    """Write the card of an export; one that the user wrote or edited stays."""
    path = folder / CARD
    if not path.exists() or is_own_card(path.read_bytes()):
        write_text_atomic(path, text + _SIGNED.format(_card_hash(text.encode())))


def is_own_card(content: bytes) -> bool:
    """True for a card that was written here and not edited since."""
    text, line, _ = content.rpartition(_SIGNED.partition("{")[0].encode())
    return bool(line) and content == text + _SIGNED.format(_card_hash(text)).encode()


def _card_hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


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
