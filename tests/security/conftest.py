"""Fixtures of the attacks: foreign model folders, finished runs, and code that leaves a file when it runs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotpress.modeling.tiny import tiny_model
from cotpress.store.artifacts import CHECKSUM, ArtifactStore, content_checksum
from support import published
from support.commands import Command


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Function that runs an entry script in a separate process."""
    return Command(tmp_path_factory.mktemp("user"))


@pytest.fixture
def model_folder(store: ArtifactStore, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(tiny_model(store).path, tmp_path / "model")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that exists if and only if an attack's code ran."""
    return tmp_path / "ran"


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """The run directory of a finished run below `tmp_path / "outputs"`."""
    return published.finished_run(tmp_path / "outputs")


class RunsWhenUnpickled:
    """Object that creates a file when it is unpickled without restrictions."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str, int]]:
        return os.open, (str(self._path), os.O_CREAT)


def edit(path: Path, **values: Any) -> None:
    """Change keys of a manifest or of results and update the checksum, as an attacker can."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **values}
    content.pop(CHECKSUM, None)
    path.write_text(json.dumps({**content, CHECKSUM: content_checksum(content)}), encoding="utf-8")
