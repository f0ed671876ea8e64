"""The code of docs/api.md, and that of the README, runs on the embedded model and prints what the page shows."""

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


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    cotpress.free_models()


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_code_prints_what_the_page_shows() -> None:
    pytest.importorskip("datasets", reason="the extra hub is not installed")
    names: dict[str, Any] = {}
    shown = _blocks("docs/api.md")
    assert sum(bool(text) for _, text in shown) >= 5
    for code, text in [*shown, *_blocks("README.md")]:
        printed = StringIO()
        with redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == text
    assert names["right"] is True
    assert len(names["shorter"].text) < len(names["short"].text) < len(names["thinking"])


def test_pages_have_the_signatures_of_the_code() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    assert all(f"`{name}(" in text for name in cotpress.__all__ if name.islower())
    assert len(_blocks("README.md")) == 1
