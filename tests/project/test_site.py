"""The pages of docs/ make a site: links to files outside of it, the reference, no broken link."""

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "docs/site/mkdocs.yml"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")


@pytest.fixture(scope="module")
def hooks() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/site/hooks.py"))


def _rewritten(hooks: dict[str, Any], text: str, place: str) -> str:
    result: str = hooks["on_page_markdown"](text, page=SimpleNamespace(file=SimpleNamespace(src_uri=place)))
    return result


@pytest.mark.parametrize(
    ("place", "link", "expected"),
    [
        ("index.md", "docs/data.md#labels", "data.md#labels"),
        ("scaling.md", "../experiments/several_machines/plot.png", "experiments/several_machines/plot.png"),
        ("index.md", "experiments/real_traces/README.md", "experiments/real_traces/README.md"),
        ("data.md", "../README.md#start", "index.md#start"),
        ("data.md", "scorers.md", "scorers.md"),
        ("data.md", "../src/cotpress/records.py", "files/src/cotpress/records.py.md"),
        ("data.md", "../src/cotpress/scoring/scorers", "files/src/cotpress/scoring/scorers.md"),
        ("experiments/real_traces/README.md", "plot.png", "plot.png"),
        ("experiments/real_traces/README.md", "../../docs/data.md", "../../data.md"),
        ("experiments/real_traces/README.md", "deletions.csv", "../../files/experiments/real_traces/deletions.csv.md"),
        ("notebooks/tour.md", "../docs/data.md", "../data.md"),
        ("index.md", "notebooks/tour.ipynb", "notebooks/tour.md"),
        ("data.md", "https://arxiv.org/abs/2505.17827", "https://arxiv.org/abs/2505.17827"),
        ("data.md", "#labels", "#labels"),
    ],
)
def test_links_point_to_places_in_the_site(hooks: dict[str, Any], place: str, link: str, expected: str) -> None:
    assert _rewritten(hooks, f"[a page]({link})", place) == f"[a page]({expected})"


def test_pictures_in_html_are_found(hooks: dict[str, Any]) -> None:
    text = '<source srcset="../experiments/real_traces/plot.svg"><img src="../experiments/real_traces/plot.png">'
    assert _rewritten(hooks, text, "data.md") == text.replace("../", "")


def test_code_keeps_what_looks_like_a_link(hooks: dict[str, Any]) -> None:
    text = "```bash\necho [a](docs/data.md)\n```\n"
    assert _rewritten(hooks, text, "index.md") == text


def test_pipes_in_code_of_tables_lose_their_backslash(hooks: dict[str, Any]) -> None:
    assert _rewritten(hooks, r"| `a\|b` | c\|d |", "data.md") == r"| `a|b` | c\|d |"


def test_no_page_has_a_diagram_that_a_library_from_the_network_would_draw() -> None:
    pages = [path for pattern in ("*.md", "docs/**/*.md", "experiments/**/*.md") for path in ROOT.glob(pattern)]
    assert len(pages) > 30
    assert [path.name for path in pages if "```mermaid" in path.read_text(encoding="utf-8")] == []


def test_notebooks_become_texts_code_and_outputs(hooks: dict[str, Any], tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "\n", "A text."]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/html": ["<b>2</b>"], "text/plain": ["<HTML>"]}},
            ],
        },
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    expected = "# A title\n\nA text.\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n<b>2</b>\n"
    assert hooks["_markdown"](path) == expected


def test_reference_has_a_page_for_every_package(hooks: dict[str, Any]) -> None:
    packages = {path.parent.name for path in (ROOT / "src/cotpress").glob("*/__init__.py")}
    pages = hooks["_reference"]()
    assert set(pages) == {"index", *packages}
    assert "::: cotpress.scoring.scorers.cts\n" in pages["scoring"]


def test_navigation_names_every_page_once() -> None:
    named = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", CONFIGURATION.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted([*(p.name for p in (ROOT / "docs").glob("*.md")), "index.md", "notebooks/tour.md"])


@pytest.mark.slow
def test_site_builds_with_strict_links(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run([*command, "--config-file", str(CONFIGURATION)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Reasoning models think" in start
    for page in (*(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").glob("*/README.md")):
        folder = page.parent.relative_to(ROOT) if page.name == "README.md" else Path(page.stem)
        assert (tmp_path / folder / "index.html").is_file(), page
    scoring = (tmp_path / "reference/scoring/index.html").read_text(encoding="utf-8")
    assert "Base classes of scorers." in scoring
