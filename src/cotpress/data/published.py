"""Problems of a published test set, from the hub or a local copy; its YAML names the file and the columns.

The options of a multiple-choice question are shuffled. Their order depends on the seed and the question alone, not on
the other questions of the file.

The argument `group` is the configuration group of the settings, for messages.
"""

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cotpress.answers import extract_answer
from cotpress.data.config import HubFile, MultipleChoiceBenchmarkConfig, PublishedBenchmarkConfig
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.hub import from_hub
from cotpress.records import Problem

log = logging.getLogger(__name__)


def fetch(hub: HubFile, group: str = "benchmark") -> Path:
    """The file in the local hub cache, downloaded if it is missing.

    A test set is one file, which huggingface_hub can fetch, so the library `datasets` is not needed. No code of the
    data set is run.

    Raises:
        DataError: The data set, revision or file does not exist, is gated, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    key, local = f"{group}.hub.dataset", f"{group}.path=FILE"
    with from_hub(key, hub.dataset, local=local, error=DataError, revision=hub.revision, file=hub.file):
        return Path(hf_hub_download(hub.dataset, hub.file, repo_type="dataset", revision=hub.revision))


LETTERS = "ABCDEFGHIJ"


def shuffled(num_options: int, seed: int, question_id: str) -> list[int]:
    """A permutation of `range(num_options)` that depends on seed and question only, uniform over questions."""
    return sorted(range(num_options), key=lambda i: hashlib.sha256(f"{seed}/{question_id}/{i}".encode()).digest())


def lettered(options: Sequence[str]) -> str:
    """The options as lines `(A) ...`, `(B) ...`.

    Raises:
        ConfigError: There are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise ConfigError(f"benchmark.wrong_columns: got {len(options) - 1}, allowed: at most {len(LETTERS) - 1}")
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))


def local_file(config: PublishedBenchmarkConfig, group: str = "benchmark") -> Path:
    """The file with the problems: the local copy, or the file of the hub in the local cache.

    Raises:
        ConfigError: The local copy does not exist.
        DataError: The file cannot be fetched.
    """
    if config.path is None:
        return fetch(config.hub, group)
    path = Path(config.path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"{group}.path: '{path}' {what}. Fix: name a copy of {config.hub.dataset}, {config.hub.file}")
    return path


def reading(config: PublishedBenchmarkConfig) -> dict[str, Any]:
    """The settings that, with the file, determine the problems."""
    identity: dict[str, Any] = {
        "id": list(config.id_columns),
        "question": list(config.question_columns),
        "answer": list(config.answer_columns),
        "answer_after": config.answer_after,
    }
    if isinstance(config, MultipleChoiceBenchmarkConfig):
        identity |= {"wrong": list(config.wrong_columns), "seed": config.seed}
    return identity


def problems(config: PublishedBenchmarkConfig, file: Path, group: str = "benchmark") -> Iterator[Problem]:
    """All problems of the file, in order.

    Raises:
        DataError: There is no row; or a row lacks a column, repeats an id, or has a gold answer that the benchmark's
            extractor cannot read. A published test set has no such rows, so this must be another file.
    """
    key = f"{group}.hub.file" if config.path is None else f"{group}.path"
    seen: set[str] = set()
    for index, (place, row) in enumerate(read_table(file, key)):
        where = f"'{file}', {place}"
        problem = _problem(config, row, str(index), where, group)
        if problem.id in seen:
            raise DataError(f"{where}: the id '{problem.id}' is that of an earlier row. Allowed: one row per id")
        seen.add(problem.id)
        yield problem
    if not seen:
        raise DataError(f"{key}: '{file}' has no rows")
    if len(seen) != config.num_published:
        log.warning(
            "%s: '%s' has %d problems, the published set has %d: results are not comparable",
            config.name, file, len(seen), config.num_published,
        )  # fmt: skip


def _problem(config: PublishedBenchmarkConfig, row: Mapping[str, Any], index: str, where: str, group: str) -> Problem:
    has_id = any(column in row for column in config.id_columns)
    id_ = _text(row, config.id_columns, where) if has_id else index
    question = _text(row, config.question_columns, where)
    answer = _text(row, config.answer_columns, where)
    if isinstance(config, MultipleChoiceBenchmarkConfig):
        options = [answer, *(_text(row, [column], where) for column in config.wrong_columns)]
        order = shuffled(len(options), config.seed, id_)
        question = f"{question}\n\n{lettered([options[i] for i in order])}"
        answer = LETTERS[order.index(0)]
    elif config.answer_after:
        answer = answer.rpartition(config.answer_after)[2].strip()
    if not extract_answer(f"\\boxed{{{answer}}}", config.extractor):
        raise DataError(
            f"{where}: {group}.extractor={config.extractor.value} cannot read the gold answer '{answer:.60}'. "
            f"Fix: check {group}.answer_columns, or whether this is the right file"
        )
    return Problem(id=id_, question=question, answer=answer)


def _text(row: Mapping[str, Any], columns: Sequence[str], where: str) -> str:
    """The text in the first of these columns that the row has; a whole number becomes its digits."""
    column = next((c for c in columns if c in row), None)
    if column is None:
        raise DataError(f"{where}: no column {' or '.join(columns)}. Got: {', '.join(map(str, row))}")
    value = row[column]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}, column '{column}': got {value!r:.60}, allowed: text that is not blank")
    return value.strip()


SUFFIXES = (".jsonl", ".parquet", ".csv")
Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Place of a row, for messages, and its values by column."""


def read_table(path: Path, key: str) -> Rows:
    """All rows of a .jsonl, .parquet or .csv file (with a header line), in order; `key` names it in messages.

    Raises:
        DataError: There is no such file, or it is not what its suffix says.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{key}: got '{path}', allowed: a file that ends in {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            yield from _numbered(pq.read_table(path).to_pylist())
        elif suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as handle:
                yield from _numbered(csv.DictReader(handle, strict=True))
        else:
            yield from _jsonl(path)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{key}: '{path}' cannot be read as {suffix[1:]}: {error}") from error


def _numbered(rows: Iterable[Mapping[str, Any]]) -> Rows:
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"'{path}', line {number}: invalid JSON: {error}. Fix: one JSON object a line"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"'{path}', line {number}: got {type(row).__name__}, allowed: a JSON object")
            yield f"line {number}", row
