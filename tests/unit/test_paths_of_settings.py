"""The home directory is inserted in every setting that is a path, and every such setting is declared as one."""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotpress.cli.commands import parse
from cotpress.config import SCHEMAS
from cotpress.dashboard.__main__ import DashboardConfig
from cotpress.hub.__main__ import HubConfig
from cotpress.scoring.table import SCORERS
from cotpress.settings import PATH, insert_home, type_parts

NO_PATHS = {
    "ModelConfig.hub_id": "a hub id",
    "EvaluateConfig.plugins": "names of modules",
    "ReportConfig.plugins": "names of modules",
    "ScoringPipelineConfig.plugins": "names of modules",
    "RowsDataConfig.generations": "a choice",
    "HubFile.revision": "a commit",
    "HubFile.file": "a path inside of a data set of the hub",
}
"""Settings whose docstring or name speaks of a path, and what they are."""
_WORDS = re.compile(r"\b(folder|file|path|directory)s?\b", re.IGNORECASE)
_NAME = re.compile(r"(?:.*_)?(?:path|dir|folder|file|root|output|run|runs)")


def _classes() -> list[type]:
    """All classes of settings, those of the commands without a configuration included."""
    pending: list[Any] = [
        *SCHEMAS.values(),
        *(entry.settings for entry in SCORERS.values()),
        HubConfig,
        DashboardConfig,
    ]
    known: dict[type, None] = {}
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in known:
            known[kind] = None
            pending += [base for base in kind.__mro__[1:] if dataclasses.is_dataclass(base)]
            hints = typing.get_type_hints(kind, include_extras=True)
            pending += [part for hint in hints.values() for part in type_parts(hint)]
    return list(known)


def _texts(kind: type) -> Iterator[tuple[str, str, bool]]:
    """Name and docstring of each setting of a class's own that holds text, and True if it is declared as a path."""
    hints = typing.get_type_hints(kind, include_extras=True)
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name, parts = statement.target.id, list(type_parts(hints[statement.target.id]))
            doc = ast.unparse(following) if isinstance(following, ast.Expr) else ""
            if str in parts or Path in parts:
                yield name, doc, PATH in parts or Path in parts or name == "path"


def test_a_setting_that_speaks_of_a_path_is_declared_as_one_or_listed_with_a_reason() -> None:
    spoken = {
        f"{kind.__name__}.{name}"
        for kind in _classes()
        for name, doc, is_path in _texts(kind)
        if not is_path and (_WORDS.search(doc) or _NAME.fullmatch(name))
    }
    assert spoken == set(NO_PATHS)


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__name__)
def test_the_home_directory_is_inserted_in_every_path(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name in [name for name, _, is_path in _texts(kind) if is_path]:
        settings = kind(**{name: "~/x, y"})
        insert_home(settings)
        assert getattr(settings, name) == "/home/me/x, y"


def test_commands_without_a_configuration_insert_it_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    hub = parse(HubConfig, ["run=~/runs/a", "repo=me/x", "output=~/out", "base_path=~/base"])
    assert (hub.run, hub.output, hub.base_path) == ("/home/me/runs/a", "/home/me/out", "/home/me/base")
    assert parse(DashboardConfig, ["output=~/d.json"]).output == "/home/me/d.json"


@dataclasses.dataclass
class _Outer:
    inner: list[HubConfig] = dataclasses.field(default_factory=lambda: [HubConfig(run="~/a")])
    named: dict[str, HubConfig] = dataclasses.field(default_factory=lambda: {"b": HubConfig(run="~/b")})


def test_settings_in_lists_and_dictionaries_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    outer = _Outer()
    insert_home(outer)
    assert [outer.inner[0].run, outer.named["b"].run] == ["/home/me/a", "/home/me/b"]
