import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

import cotpress
from cotpress.config import CompressConfig, register_schemas, to_objects
from cotpress.records import CompressedTrace, ScoredTrace
from cotpress.store.tables import read_records
from cotpress.tasks.flow import Export
from cotpress.tracking import silent_tracker
from support.commands import ROOT

Rows = list[dict[str, str]]
THINKING = (
    "wait let me check : 3 apples plus 4 apples is 7 apples",
    "so 12 + 4 = 16.\n\nWait, 16 books in {i} boxes.\n然后 🙂 that is it. The answer is 16.",
    "the total is " + " plus ".join(str(n) for n in range(40)),
    "  spaces \t and\nlines, naïve \\frac{48}{2} = 24 .",
)


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_loaded() -> Iterator[None]:
    yield
    cotpress.free_models()


@pytest.fixture(scope="session")
def rows() -> Rows:
    """Traces of different length, some beyond a context of 100 tokens."""
    return [
        {
            "id": f"r{i}", "question": f"how many books are in {i} boxes", "response": f"the answer is {i}",
            "thinking": THINKING[i % 4].replace("{i}", str(i)), "answer": str(i),
        }
        for i in range(12)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the tiny model and of the artifacts of commands."""
    return str(tmp_path_factory.mktemp("outputs"))


@pytest.fixture
def settings(root: str) -> dict[str, Any]:
    """Arguments of a call on the tiny model."""
    return {"model": "tiny", "output_root": root}


@pytest.fixture
def command(root: str, rows: Rows, tmp_path: Path) -> Callable[..., tuple[list[CompressedTrace], list[ScoredTrace]]]:
    """The rows and scores of `compress.py`, without a process of its own."""

    def run(*overrides: str) -> tuple[list[CompressedTrace], list[ScoredTrace]]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        given = [
            "model=tiny", "reference=none", "tracker=none", "data=jsonl", f"data.path={tmp_path / 'rows.jsonl'}",
            f"output_root={root}", *overrides,
        ]  # fmt: skip
        register_schemas()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = to_objects(compose("compress", overrides=given))
        assert isinstance(config, CompressConfig)
        flow = Export(config, silent_tracker())
        compressed = read_records(flow.compressed().file("compressed.parquet"), CompressedTrace)
        made = flow.selected_by
        exact = made is not None and "scores.parquet" in made.manifest["files"]
        return compressed, read_records(made.file("scores.parquet"), ScoredTrace) if made and exact else []

    return run
