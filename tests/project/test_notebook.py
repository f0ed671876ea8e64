"""The notebook is executed from top to bottom on the tiny model, and its committed outputs are those of a whole run."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks/tour.ipynb"


def _cells(kind: str) -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == kind]


def _output(cell: dict[str, Any]) -> str:
    return json.dumps(cell["outputs"])


def test_committed_outputs_are_of_one_run_without_errors() -> None:
    cells = _cells("code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [cell for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert sum(bool(cell["outputs"]) for cell in cells) >= len(cells) - 2


def test_committed_outputs_are_of_the_embedded_default_and_hold_no_local_path() -> None:
    outputs = "".join(_output(cell) for cell in _cells("code"))
    assert "smollm2 on planted" in outputs
    assert re.findall(r"/(?:tmp|root|home|work)/[^\s\"\\]*", outputs) == []


def test_links_of_the_notebook_exist() -> None:
    text = "".join("".join(cell["source"]) for cell in _cells("markdown"))
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert len(links) > 4
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="needs the extra docs")
def test_notebook_runs_on_the_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("COTPRESS_MODEL", "tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=where).execute()
    printed = [_output(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert "tiny on planted" in printed[-4]
    assert "Original" in printed[-2]
    assert (tmp_path / "outputs/report/report.html").is_file()
