"""Problems of a published test set, from the hub or a local copy; its YAML names the file and the columns.

The options of a multiple-choice question are shuffled. Their order depends on the seed and the question alone, not on
the other questions of the file.

The argument `group` is the configuration group of the settings, for messages.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.answers import extract_answer
from cotpress.data.config import HubFile, MultipleChoiceBenchmarkConfig, PublishedBenchmarkConfig
from cotpress.data.files import Files, find_files
from cotpress.data.rows import Field, RowReader
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


def lettered(options: Sequence[str], line: str) -> str:
    """The options, each as a `line` with `{letter}` and `{option}`: `(A) ...` or `A) ...`.

    Raises:
        ConfigError: There are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise ConfigError(f"benchmark.wrong_columns: got {len(options) - 1}, allowed: at most {len(LETTERS) - 1}")
    named = zip(LETTERS, options, strict=False)
    return "\n".join(line.replace("{letter}", letter).replace("{option}", option) for letter, option in named)


def local_files(config: PublishedBenchmarkConfig, group: str = "benchmark") -> Files:
    """The file with the problems: the local copy, or the file of the hub in the local cache.

    Raises:
        ConfigError: There is no such local copy.
        DataError: The file cannot be fetched.
    """
    if config.path is None:
        return find_files(fetch(config.hub, group), f"{group}.hub.file")
    try:
        return find_files(config.path, f"{group}.path")
    except ConfigError as error:
        raise ConfigError(f"{error}. It is a copy of {config.hub.dataset}, {config.hub.file}.") from None


def reading(config: PublishedBenchmarkConfig) -> dict[str, Any]:
    """The settings that, with the file, determine the problems."""
    identity: dict[str, Any] = {
        "id": list(config.id_columns),
        "question": list(config.question_columns),
        "answer": list(config.answer_columns),
        "answer_after": config.answer_after,
    }
    if isinstance(config, MultipleChoiceBenchmarkConfig):
        identity |= {"wrong": list(config.wrong_columns), "seed": config.seed, "option": config.followed.option}
    return identity


def reader(config: PublishedBenchmarkConfig, files: Files, group: str = "benchmark") -> RowReader:
    """Reader of the rows; a row without an id has its number, counted from 0."""
    fields = [
        Field(name="id", required=True, optional=True, is_short=True, columns=config.id_columns),
        Field(name="question", required=True, columns=config.question_columns),
        Field(name="answer", required=True, is_short=True, columns=config.answer_columns),
    ]
    if isinstance(config, MultipleChoiceBenchmarkConfig):
        fields += [Field(name=name, required=True, is_short=True) for name in config.wrong_columns]
    key = f"{group}.hub.file" if config.path is None else f"{group}.path"
    return RowReader(files, fields, strict=config.strict, key=key, unnamed=lambda number: str(number - 1))


def problems(config: PublishedBenchmarkConfig, rows: RowReader, group: str = "benchmark") -> Iterator[Problem]:
    """The problems of all usable rows, in order.

    Raises:
        DataError: There is no usable row; or, if strict, a row is bad or has a gold answer that the benchmark's
            extractor cannot read.
    """
    num_problems = 0
    for row in rows:
        problem = _problem(config, {name: text.strip() for name, text in row.items()})
        if not extract_answer(f"\\boxed{{{problem.answer}}}", config.extractor):
            rows.drop(
                f"{group}.extractor={config.extractor.value} cannot read the gold answer",
                got=repr(problem.answer)[:60],
                allowed=f"an answer of this kind (check {group}.answer_columns, and whether this is the right file)",
            )
            continue
        num_problems += 1
        yield problem
    if num_problems != config.num_published:
        log.warning(
            "%s: the file has %d usable problems, the published set has %d: results are not comparable",
            config.name, num_problems, config.num_published,
        )  # fmt: skip


def _problem(config: PublishedBenchmarkConfig, row: Mapping[str, str]) -> Problem:
    question, answer = row["question"], row["answer"]
    if isinstance(config, MultipleChoiceBenchmarkConfig):
        options = [answer, *(row[name] for name in config.wrong_columns)]
        order = shuffled(len(options), config.seed, row["id"])
        question = f"{question}\n\n{lettered([options[i] for i in order], config.followed.option)}"
        answer = LETTERS[order.index(0)]
    elif config.answer_after:
        answer = answer.rpartition(config.answer_after)[2].strip()
    return Problem(id=row["id"], question=question, answer=answer)
