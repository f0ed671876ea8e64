"""Messages about what is not installed give a command that works wherever the package came from."""

import importlib.metadata
import re
import tomllib

import pytest

from cotpress.errors import install_extra
from cotpress.jobs.multirun import EXTRAS
from support.commands import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_an_extra_is_installed_by_what_it_holds() -> None:
    expected = "pip install 'hydra-submitit-launcher>=1.2' 'submitit>=1.5.4' (the extra slurm of cotpress)"
    assert install_extra("slurm") == expected


def test_every_extra_that_a_message_names_exists() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"install_extra\(['\"](\w+)['\"]\)", text)}
    assert named == {"dashboard", "gpu", "hub", "llmlingua2"}
    assert named | {extra for _, extra in EXTRAS.values()} <= set(PROJECT["optional-dependencies"])
    assert not [text for text in sources if "install 'cotpress[" in text], "works only from an index"


def test_source_that_is_not_installed_names_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert install_extra("hub") == "pip install -e '.[hub]' in the checkout of cotpress"
