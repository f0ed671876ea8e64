"""Reader of offline W&B runs: records of W&B's protocol in LevelDB's log format."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protocol

KEY = "0123456789abcdef0123456789abcdef01234567"
"""Has the shape of an API key."""
BLOCK, FILE_HEADER, RECORD_HEADER = 32768, 7, 7
FULL, LAST = 1, 4


@dataclass
class OfflineRun:
    """One run as `wandb sync` would send it."""

    id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    project: str = ""
    tags: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    step_axes: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: list[protocol.ArtifactRecord] = field(default_factory=list)
    exit_code: int | None = None

    def summary(self) -> dict[str, Any]:
        """The last value of everything logged."""
        return {name: value for row in self.history for name, value in row.items()}


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Every offline run at or below a folder, oldest first."""
    return [_read(path) for path in sorted(folder.rglob("offline-run-*/run-*.wandb"), key=lambda p: p.stat().st_ctime)]


def _read(path: Path) -> OfflineRun:
    run = OfflineRun()
    for record in _records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                run.id, run.group, run.job_type = record.run.run_id, record.run.run_group, record.run.job_type
                run.name, run.project, run.tags = record.run.display_name, record.run.project, set(record.run.tags)
                run.config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
            case "config":
                run.config |= {u.key: json.loads(u.value_json) for u in record.config.update}
            case "history":
                run.history.append(_row(record.history.item))
            case "metric":
                if record.metric.glob_name:
                    run.step_axes[record.metric.glob_name] = record.metric.step_metric
            case "artifact":
                run.artifacts.append(record.artifact)
            case "exit":
                run.exit_code = record.exit.exit_code
    for file in (path.parent / "files" / "media" / "table").rglob("*.table.json"):
        name = str(file.relative_to(path.parent / "files" / "media" / "table")).rpartition("_")[0].rpartition("_")[0]
        run.tables[name] = json.loads(file.read_text())
    return run


def _row(items: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in items:
        names = list(item.nested_key) or [item.key]
        if len(names) == 1 and not names[0].startswith("_"):
            row[names[0]] = json.loads(item.value_json)
    return row


def _records(data: bytes) -> Iterator[Any]:
    assert data[:4] == b":W&B"
    position, content = FILE_HEADER, b""
    while position + RECORD_HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < RECORD_HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + RECORD_HEADER])
        position += RECORD_HEADER
        content += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            record = protocol.Record()
            record.ParseFromString(content)
            content = b""
            yield record
