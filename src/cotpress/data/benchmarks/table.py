"""Rows of a .jsonl, .parquet or .csv file as Python values, whatever their columns; the whole file or an error."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cotpress.errors import DataError

Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Where a row stands, for messages, and its values by column."""


def read_table(path: Path, key: str) -> Rows:
    """All rows in order.

    Args:
        path: A file that ends in .jsonl, .parquet or .csv (with a header line).
        key: Configuration key that named the file, for messages.

    Raises:
        DataError: There is no such file, or it is not what its suffix says.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{key}: got '{path}', allowed: a file that ends in {', '.join(_READERS)}")
    try:
        yield from reader(path)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{key}: '{path}' cannot be read as {path.suffix.lower()[1:]}: {error}") from error


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(
                    f"'{path}', line {number}: invalid JSON: {error}. Fix: one JSON object a line"
                ) from error
            if not isinstance(row, dict):
                raise DataError(f"'{path}', line {number}: got {type(row).__name__}, allowed: a JSON object")
            yield f"line {number}", row


def _parquet(path: Path) -> Rows:
    for number, row in enumerate(pq.read_table(path).to_pylist(), start=1):
        yield f"row {number}", row


def _csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle, strict=True), start=1):
            yield f"row {number}", row


_READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}
