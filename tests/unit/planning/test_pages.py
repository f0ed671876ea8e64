"""The tables in the docs are those that `make docs` writes."""

import runpy
from pathlib import Path

import pytest

from cotpress.training.config import Method

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_tables_of_memory_and_hours_are_up_to_date() -> None:
    for path, content in runpy.run_path(str(ROOT / "docs/figures/plan.py"))["pages"]().items():
        assert path.read_text(encoding="utf-8") == content, "make docs"


def test_line_of_one_preset_is_as_the_command_writes_it() -> None:
    smallest_line = runpy.run_path(str(ROOT / "docs/figures/plan.py"))["smallest_line"]
    assert f"\n{smallest_line('llama8b', Method.lora)}\n" in (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


def test_every_preset_and_every_table_of_the_papers_is_there() -> None:
    scaling, reproducing = (
        (ROOT / f"docs/{page}.md").read_text(encoding="utf-8") for page in ("scaling", "reproducing")
    )
    for name in ("qwen7b", "llama8b", "qwen14b", "qwen32b", "qwen72b"):
        assert scaling.count(f"| {name} | lora |") == scaling.count(f"| {name} | full |") == 3
    for table in ("TokenSkip, figure", "TokenSkip, table 1", "CTS, table 6", "CTS, table 7", "CTS, headline"):
        assert f"| {table}, " in reproducing
