"""The code of docs/api.md and of the README runs on the embedded model and prints what the pages show."""

import inspect
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import cotpress
from support.commands import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n+^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def _blocks(page: str) -> list[tuple[str, str]]:
    """The code of a page, each block with the text that is shown below it."""
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def _printed(code: str, names: dict[str, Any]) -> str:
    printed = StringIO()
    with redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    cotpress.free_models()


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_code_prints_what_the_pages_show() -> None:
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    (readme,) = (block for block in _blocks("README.md") if "import cotpress" in block[0])
    blocks = [*_blocks("docs/api.md"), readme]
    assert sum(bool(text) for _, text in blocks) >= 6
    names: dict[str, Any] = {}
    assert [_printed(code, names) for code, _ in blocks] == [text for _, text in blocks]


@pytest.mark.parametrize("name", ["compress", "score", "select", "evaluate_answers"])
def test_page_has_the_parameters_of_the_code(name: str) -> None:
    (shown,) = re.findall(rf"^`{name}\((.*)\)`", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    parameters = inspect.signature(getattr(cotpress, name)).replace(return_annotation=inspect.Signature.empty)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters.parameters.values()]
    assert f"({shown})" == str(parameters.replace(parameters=plain)).replace("'", '"')


def test_page_names_every_function() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert all(f"`{name}(" in text for name in cotpress.__all__ if name.islower())
