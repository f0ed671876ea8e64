"""The tables in the docs are what the planning functions give."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pages() -> Callable[[], dict[Path, str]]:
    found: Callable[[], dict[Path, str]] = runpy.run_path(str(ROOT / "docs/figures/plan.py"))["pages"]
    return found


def test_tables_of_memory_and_hours_are_up_to_date(pages: Callable[[], dict[Path, str]]) -> None:
    for path, content in pages().items():
        assert path.read_text(encoding="utf-8") == content, "make docs"


def test_every_preset_and_every_table_of_the_papers_is_there(pages: Callable[[], dict[Path, str]]) -> None:
    scaling, reproducing = pages().values()
    for name in ("qwen7b", "llama8b", "qwen14b", "qwen32b", "qwen72b"):
        assert scaling.count(f"| {name} | lora |") == scaling.count(f"| {name} | full |") == 3
    for table in ("TokenSkip, figure", "TokenSkip, table 1", "CTS, table 6", "CTS, table 7", "CTS, headline"):
        assert f"| {table}, " in reproducing
