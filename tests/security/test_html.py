"""Texts and names of data, runs and models are escaped wherever a page is made of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from cotpress.hub.card import model_card
from cotpress.hub.publication import read_publication
from cotpress.records import Trace
from cotpress.report.stage import report_collection, report_run
from support.pages import Parsed
from support.published import finished_run as make_run
from support.reported import World, a_row

HOSTILE = "</script><img src=x onerror=alert(1)>'\"><svg onload=alert(1)> $\\frac{ $x$ & |"

NAME = "</script><img src=x onerror=a()>$\\frac{ $x$|"
"""Of a run, a model and a system; a figure has room for so much."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which every text is hostile."""
    traces = [
        Trace(id=f"{HOSTILE}{i}", question=HOSTILE, thinking=f"{HOSTILE} {i} = {i}", response=HOSTILE, answer=HOSTILE)
        for i in range(3)
    ]
    world = World(tmp_path_factory.mktemp("world"), traces)
    row = replace(a_row("random", 0.5), system=NAME)
    run = world.run(
        "random", 0.5, world.compressed("random", 0.5), name=NAME, model=NAME, benchmark=NAME,
        rows=(a_row("Original", 1.0), row), essentials={HOSTILE: HOSTILE, "data": HOSTILE},
    )  # fmt: skip
    (run / "config.yaml").write_text(f"name: '{HOSTILE}'")
    return run


def check(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert parsed.open == []
    assert len(parsed.scripts) == 2
    assert "img" not in parsed.elements
    assert not [name for name in parsed.attributes if name.startswith("on")]
    assert [trace["text"] for trace in parsed.viewer["data"][0]["traces"]] == [f"{HOSTILE} {i} = {i}" for i in range(3)]
    assert "default-src 'none'" in text


def test_a_runs_page_holds_no_element_of_the_data(run_dir: Path) -> None:
    check(report_run(run_dir))


def test_a_collections_page_and_its_tables_hold_none(run_dir: Path, tmp_path: Path) -> None:
    report_collection(run_dir.parent, tmp_path)
    check(tmp_path / "report.html")
    tables, pictures = [*tmp_path.glob("*.md")], [*tmp_path.glob("*.svg")]
    assert tables
    assert pictures
    assert [path.name for path in (*tables, *pictures) if "<img" in path.read_text(encoding="utf-8")] == []


def test_a_model_card_holds_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "outputs", data={"name": "jsonl", "path": HOSTILE})
    publication = read_publication(run, None)
    assert "<img" not in str(model_card(publication, "me/student"))
