"""The pictures of README show what they say: the trace, what its script draws, and small files."""

import runpy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

import cotpress
from cotpress.data.planted import Length, traces
from support.commands import ROOT

FIGURES = ROOT / "docs/figures"
PICTURES = sorted([*FIGURES.glob("*.svg"), *FIGURES.glob("*.png")])
MOST_BYTES = 200_000


def _spans(unit: str) -> list[tuple[str, str]]:
    """Class and text of every piece of the trace in trace.svg, for one unit."""
    (group,) = (g for g in ElementTree.parse(FIGURES / "trace.svg").iter() if g.get("id") == unit)
    return [(span.attrib["class"], span.text or "") for span in group.iter() if span.tag.endswith("tspan")]


@pytest.mark.parametrize("unit", ["word", "step"])
def test_picture_holds_the_whole_trace_for_every_unit(unit: str) -> None:
    (trace,) = traces(num_traces=1, families=[], length=Length.short, seed=42)
    assert "".join(text for _, text in _spans(unit)) == trace.thinking
    assert trace.question in (FIGURES / "trace.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("unit", ["word", "step"])
def test_every_piece_is_kept_or_struck_out_or_a_deleted_space(unit: str) -> None:
    spans = _spans(unit)
    assert {name for name, _ in spans} == {"kept", "dropped", "gone"}
    assert all(text.isspace() for name, text in spans if name == "gone")
    assert ".dropped { fill: #767676; text-decoration: line-through }" in (FIGURES / "trace.svg").read_text()


@pytest.mark.slow
def test_committed_pictures_are_those_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script: dict[str, Any] = runpy.run_path(str(FIGURES / "trace.py"))
    example = script["example"]()
    for name, drawn in (("trace", script["before_and_after"]), ("overview", script["overview"])):
        assert drawn(example) == (FIGURES / f"{name}.svg").read_text(encoding="utf-8"), "run docs/figures/trace.py"
    (trace,) = traces(num_traces=1, families=[], length=Length.short, seed=42)
    row = {name: getattr(trace, name) for name in ("question", "thinking", "response", "answer")}
    for unit in ("word", "step"):
        text = cotpress.compress(row, "cts", 0.5, granularity=unit).text
        assert "".join(text for name, text in _spans(unit) if name == "kept") == text
    cotpress.free_models()


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_are_small(path: Path) -> None:
    assert 2_000 < path.stat().st_size < MOST_BYTES


def test_light_and_dark_picture_of_the_viewer_have_one_size() -> None:
    light, dark = (Image.open(FIGURES / name) for name in ("viewer.png", "viewer-dark.png"))
    assert light.size == dark.size
    corners = [picture.convert("L").getpixel((0, 0)) for picture in (light, dark)]
    assert corners[0] > 200 > 50 > corners[1]
