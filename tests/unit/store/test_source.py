"""Hashes of source code: what counts, and what does not."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cotpress.store import source
from cotpress.store.source import CHOICES, UNFOLLOWED, Sources, changed_modules, code_of, without_code


def code(root: str, **modules: str) -> dict[str, str]:
    """Hashes of the code of a module in a package of these modules; a double underscore in a name is a dot."""
    names = {f"cotpress.{name.replace('__', '.')}": text for name, text in modules.items()}
    made = Sources({name: (Path("nowhere", f"{name}.py"), text.encode()) for name, text in names.items()})
    return made.code(frozenset({f"cotpress.{root}"}))


TEXT = '''"""Module."""
import re

LIMIT = 3  # a comment


@cache
def made(text):
    """Docstring with a # sign."""
    # a comment
    shown = f"{text} # {LIMIT}"  # another

    return f"""a

    # b {shown!r:>{LIMIT}}
""" + "#" + 'it''s'


class Kind:
    """Docstring."""

    size: int = LIMIT
    """Of a kind."""

    def of(self): """Short."""; return made("é # é")  # é
'''
NEUTRAL = [
    ('"""Module."""', '"""Another\n\ntext."""\n'),
    ("# a comment\n\n\n@cache", "\n@cache"),
    ("    # a comment\n", "\n\n"),
    ('"""Docstring with a # sign."""', "'''Another.'''"),
    ('    """Of a kind."""\n', ""),
    ("# another", "# yet another # one"),
    ("  # é", ""),
    ("\nLIMIT", "\n\n\nLIMIT"),
    ("return made", "return  made"),
    ('made("é # é")', 'made(\n        "é # é"  # é\n    )'),
    ("\n", "\r\n"),
]
COUNTED = [
    ("LIMIT = 3", "LIMIT = 4"),
    ("{text} # ", "{text} # #"),
    ('f"""a\n\n', 'f"""a\n'),
    ("# b {shown", "# c {shown"),
    ('"#"', '"##"'),
    ("é # é", "é # è"),
    ("@cache", "@other"),
    ("int = LIMIT", "int = 5"),
    ("'it''s'", "'it' + 's'"),
    (":>{LIMIT}", ":<{LIMIT}"),
    ("class Kind:", "class Kind(Base):"),
    ("    # a comment\n    shown", "    if text:\n        shown"),
]


@pytest.mark.parametrize(("before", "after"), NEUTRAL)
def test_docstrings_comments_and_layout_do_not_count(before: str, after: str) -> None:
    assert before in TEXT
    assert code("m", m=TEXT.replace(before, after)) == code("m", m=TEXT)


@pytest.mark.parametrize(("before", "after"), COUNTED)
def test_everything_else_counts(before: str, after: str) -> None:
    assert before in TEXT
    assert code("m", m=TEXT.replace(before, after)) != code("m", m=TEXT)


def test_hash_is_the_same_under_every_version_of_python() -> None:
    assert code("m", m=TEXT) == {"cotpress.m": "ceb1da3b5a58"}


def test_docstring_that_the_module_reads_counts() -> None:
    asks = '"""{}"""\n\ndef made():\n    return ask(__doc__)\n'
    assert code("m", m=asks.format("Shorten.")) != code("m", m=asks.format("Expand."))


IMPORTS = {
    "of a name": "from cotpress.b import used",
    "of the module": "from cotpress import b",
    "of the dotted module": "import cotpress.b",
    "of the module under another name": "import cotpress.b as c",
    "relative": "from .b import used",
    "relative of the module": "from . import b",
    "of everything": "from cotpress.b import *",
    "in a function": "def made():\n    from cotpress.b import used\n    return used()",
    "in a branch": "try:\n    from cotpress.b import used\nexcept OSError:\n    pass",
    "through another module": "from cotpress.c import used",
    "beside one for type checkers": "if TYPE_CHECKING:\n    import x\nelse:\n    from cotpress.b import used",
}


@pytest.mark.parametrize("text", IMPORTS.values(), ids=IMPORTS)
def test_imported_modules_count(text: str) -> None:
    others = {"c": "from cotpress.b import used", "b": "def used(): return {}"}
    first, second = (code("a", a=text, **{k: v.format(n) for k, v in others.items()}) for n in (1, 2))
    assert first["cotpress.a"] == second["cotpress.a"]
    assert first["cotpress.b"] != second["cotpress.b"]


def test_imports_for_type_checkers_and_modules_that_nothing_imports_do_not_count() -> None:
    text = "if TYPE_CHECKING:\n    from cotpress.b import used\nif typing.TYPE_CHECKING:\n    import cotpress.c"
    assert code("a", a=text, b="x = 1", c="x = 1", d="x = 1").keys() == {"cotpress.a"}


def test_settings_and_unfollowed_modules_do_not_count() -> None:
    text = "from cotpress.data.config import X\nfrom cotpress.errors import E\nimport cotpress.tracking.wandb_runs"
    modules = {"data__config": "X = 1", "errors": "E = 1", "tracking__wandb_runs": "W = 1"}
    assert code("a", a=text, **modules).keys() == {"cotpress.a"}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Hash a plugin: a folder on the path of modules with these files, of which `plug` is imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def hashed(**files: str) -> dict[str, str]:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_txt", ".txt")
            path = path if path.suffix else path.with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for name in [name for name in sys.modules if name.startswith(("plug", "helper"))]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        source._is_installed.cache_clear()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        module = importlib.import_module("plug")
        monkeypatch.setattr(source, "_sources", Sources(source._sources.package))
        root: Any = getattr(module, "Scorer", module)
        return code_of(root)

    return hashed


PLUGIN = "from cotpress.records import Trace\nclass Scorer:\n    def score(self): return {}\n"


def test_module_of_a_user_counts(outside: Callable[..., dict[str, str]]) -> None:
    first = outside(plug=PLUGIN.format(1))
    assert first.keys() == {"plug", "cotpress.records"}
    assert outside(plug=PLUGIN.format(2))["plug"] != first["plug"]
    assert outside(plug=PLUGIN.format(1) + "# a comment\n") == first


def test_modules_that_a_user_wrote_beside_it_count(outside: Callable[..., dict[str, str]]) -> None:
    text = "import numpy, json\nfrom helper import weight\nfrom helpers import more\n" + PLUGIN.format("weight")
    more = {"helpers__more": "x = 1"}
    first = outside(plug=text, helper="weight = 1", **more)
    assert first.keys() == {"plug", "helper", "helpers.more", "cotpress.records"}
    assert outside(plug=text, helper="weight = 2", **more) != first
    assert outside(plug=text, helper="weight = 1", **more | {"helpers__more": "x = 2"}) != first
    assert outside(plug=text, helper="weight = 1", **more) == first


def test_file_beside_the_module_that_it_names_counts(outside: Callable[..., dict[str, str]]) -> None:
    text = PLUGIN.format("Path(__file__).with_name('words.txt')")
    first = outside(plug=text, words_txt="a", other_txt="a")
    assert outside(plug=text, other_txt="b") == first
    assert outside(plug=text, words_txt="b") != first


def test_code_that_was_typed_in_is_never_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ModuleType("typed")
    exec("class Scorer: pass", typed.__dict__)
    typed.Scorer.__module__ = "typed"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "typed", typed)
    first = code_of(typed.Scorer)  # type: ignore[attr-defined]
    monkeypatch.setattr(source, "_sources", Sources(source._sources.package))
    assert code_of(typed.Scorer) != first  # type: ignore[attr-defined]


def test_edit_while_the_process_runs_does_not_change_the_hashes(
    outside: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    first = outside(plug=PLUGIN.format(1))
    (tmp_path / "plug.py").write_text(PLUGIN.format(2))
    assert code_of(sys.modules["plug"].Scorer, sys.modules["plug"]) == first


def test_every_unfollowed_module_exists() -> None:
    known = source._sources.package
    named = {*UNFOLLOWED, *CHOICES, *(name for names in CHOICES.values() for name in names)}
    assert named <= {*known, *(name.rpartition(".")[0] for name in known)}


def test_identities_that_differ_in_code_alone_name_the_changed_modules() -> None:
    before = {"a": 1, "code": {"m": "1", "n": "1"}, "parts": [{"code": {"o": "1"}}], "b": {"c": "code"}}
    after = {"a": 1, "code": {"m": "2", "n": "1", "p": "1"}, "parts": [{"code": {"o": "2"}}], "b": {"c": "code"}}
    assert without_code(before) == without_code(after) == {"a": 1, "parts": [{}], "b": {"c": "code"}}
    assert changed_modules(before, after) == {"m", "o", "p"}
    assert changed_modules(before, before) == set()
