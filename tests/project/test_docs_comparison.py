"""docs/comparison.md shows the numbers of its csv files, each with a source, and no others."""

import csv
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/comparison.md"
RATIOS = {"0.7", "0.9", "0.5"}
REPOSITORIES = {
    "2602.08324": ("Extra-CoT",),
    "2506.12860": ("Question-Free-Fine-Tuning",),
    "2603.05433": ("OPSD_Reasoning_Compression",),
}
"""Repositories of papers whose numbers were read in a README."""


def _others() -> list[dict[str, str]]:
    with (ROOT / "docs/comparison.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_tables_are_those_of_the_csv_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = runpy.run_path(str(ROOT / "docs/figures/comparison.py"))["written"]
    assert written(text) == text, "run docs/figures/comparison.py"


def test_every_row_names_its_paper_and_where_the_number_was_read() -> None:
    rows = _others()
    assert len(rows) > 10
    for row in rows:
        assert re.fullmatch(r"\d{4}\.\d{5}", row["arxiv"]), row
        assert row["model"], row
        assert row["benchmark"], row
        assert row["source"], row
        assert row["link"].startswith(("https://arxiv.org/abs/", "https://github.com/")), row
        assert row["link"].rpartition("/")[2] in (row["arxiv"], *REPOSITORIES.get(row["arxiv"], ())), row


def test_every_row_states_a_saving_and_an_accuracy() -> None:
    for row in _others():
        both = [bool(row[f"tokens_{when}"]) for when in ("before", "after")]
        assert both == [not row["saved_percent"]] * 2, row
        numbers = [bool(row[f"accuracy_{when}"]) for when in ("before", "after")]
        assert numbers == [not row["accuracy_as_stated"]] * 2, row


def test_text_outside_of_the_tables_has_no_number_but_ratios() -> None:
    text = PAGE.read_text(encoding="utf-8")
    text = re.sub(r"^\|[^\n]*$|^```.*?^```$|`[^`]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(\[\d{4}\.\d{5})?\]\([^)]*\)|\b2026\b", "", text)
    assert "Later findings" in text
    assert set(re.findall(r"\b\d+(?:\.\d+)?", text)) - RATIOS == set()
