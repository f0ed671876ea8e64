"""Pages and cards escape texts and names of data, runs and models."""

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
"""Name of a run, a model and a system, short enough for a figure."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose texts are all hostile."""
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


def test_page_of_a_run_has_no_element_from_its_data(run_dir: Path) -> None:
    check(report_run(run_dir))


def test_page_and_tables_of_a_collection_have_no_element_from_the_data(run_dir: Path, tmp_path: Path) -> None:
    report_collection(run_dir.parent, tmp_path)
    check(tmp_path / "report.html")
    tables, pictures = [*tmp_path.glob("*.md")], [*tmp_path.glob("*.svg")]
    assert tables
    assert pictures
    assert [path.name for path in (*tables, *pictures) if "<img" in path.read_text(encoding="utf-8")] == []


def test_model_card_has_no_element_from_the_data(tmp_path: Path) -> None:
    run = make_run(tmp_path / "outputs", data={"name": "jsonl", "path": HOSTILE})
    publication = read_publication(run, None)
    assert "<img" not in str(model_card(publication, "me/student"))
