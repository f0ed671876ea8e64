"""Problems of a published test set. Its YAML says where it is and how its columns are called."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.answers import extract_answer
from cotpress.data.benchmarks.hub import fetch
from cotpress.data.benchmarks.options import LETTERS, lettered, shuffled
from cotpress.data.benchmarks.table import read_table
from cotpress.data.config import MultipleChoiceBenchmarkConfig, PublishedBenchmarkConfig
from cotpress.errors import DataError
from cotpress.records import Problem

log = logging.getLogger(__name__)


def local_file(config: PublishedBenchmarkConfig, group: str = "benchmark") -> Path:
    """The file with the problems: the local copy, or the hub's in the local cache.

    Args:
        config: Which set.
        group: Configuration group of these settings, for messages.

    Raises:
        DataError: There is no such file, or the hub cannot give it.
    """
    if config.path is None:
        return fetch(config.hub, group)
    path = Path(config.path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{group}.path: '{path}' {what}. Fix: name a copy of {config.hub.dataset}, {config.hub.file}")
    return path


def reading(config: PublishedBenchmarkConfig) -> dict[str, Any]:
    """What determines the problems besides the file."""
    found: dict[str, Any] = {
        "id": list(config.id_columns),
        "question": list(config.question_columns),
        "answer": list(config.answer_columns),
        "answer_after": config.answer_after,
    }
    if isinstance(config, MultipleChoiceBenchmarkConfig):
        found |= {"wrong": list(config.wrong_columns), "seed": config.seed}
    return found


def problems(config: PublishedBenchmarkConfig, file: Path, group: str = "benchmark") -> Iterator[Problem]:
    """All problems of the file, in order.

    Args:
        config: How the file is read.
        file: What `local_file` found.
        group: Configuration group of these settings, for messages.

    Raises:
        DataError: A row lacks a column, repeats an id, or has a gold answer that the benchmark's extractor cannot
            read; or there is no row. A published test set has no such rows, so it is another file.
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
            "%s: '%s' has %d problems, the published set has %d: results on it do not compare",
            config.name, file, len(seen), config.num_published,
        )  # fmt: skip


def _problem(config: PublishedBenchmarkConfig, row: Mapping[str, Any], index: str, where: str, group: str) -> Problem:
    named = any(column in row for column in config.id_columns)
    id_ = _text(row, config.id_columns, where) if named else index
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
            f"{where}: the gold answer '{answer:.60}' is none that {group}.extractor={config.extractor.value} reads. "
            f"Fix: check {group}.answer_columns, or whether this is the right file"
        )
    return Problem(id=id_, question=question, answer=answer)


def _text(row: Mapping[str, Any], columns: Sequence[str], where: str) -> str:
    """The text in the first of the columns that the row has; a whole number as its digits.

    Raises:
        DataError: It has none of them, or what it has is blank or no text.
    """
    column = next((c for c in columns if c in row), None)
    if column is None:
        raise DataError(f"{where}: no column {' or '.join(columns)}. Got: {', '.join(map(str, row))}")
    value = row[column]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}, column '{column}': got {value!r:.60}, allowed: text that is not blank")
    return value.strip()
