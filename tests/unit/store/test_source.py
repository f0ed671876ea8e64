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

Package = Callable[..., Sources]


def package(**modules: str) -> Sources:
    """A package of these modules; a double underscore in a name is a dot."""
    names = {f"cotpress.{name.replace('__', '.')}": text for name, text in modules.items()}
    return Sources({name: (Path("nowhere", f"{name}.py"), text.encode()) for name, text in names.items()})


def code(root: str, **modules: str) -> dict[str, str]:
    """Hashes of the code of `module.definition`."""
    name, _, symbol = root.rpartition(".")
    return package(**modules).code(frozenset({(f"cotpress.{name}", symbol)}))


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


def unused():
    return re.match("x", "y")
'''
NEUTRAL = [
    ('"""Module."""', '"""Another\n\ntext."""\n'),
    ("# a comment\n\n\n@cache", "\n@cache"),
    ("    # a comment\n", "\n\n"),
    ('"""Docstring with a # sign."""', "'''Another.'''"),
    ("# another", "# yet another # one"),
    ('    """Of a kind."""\n', ""),
    ('"""Short."""', '"""Longer #."""'),
    ("  # é", ""),
    ("shown = f", "shown = f"),
    ('re.match("x", "y")', "1"),
    ("\nLIMIT", "\n\n\nLIMIT"),
    ("return f", "return f"),
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
    ("'it''s'", "'it' 's'"),
    (":>{LIMIT}", ":<{LIMIT}"),
    ("return made", "return  made"),
    ("class Kind:", "class Kind(Base):"),
]


@pytest.mark.parametrize(("before", "after"), NEUTRAL)
def test_docstrings_comments_blank_lines_and_unused_definitions_do_not_count(before: str, after: str) -> None:
    assert before in TEXT
    assert code("m.Kind", m=TEXT.replace(before, after)) == code("m.Kind", m=TEXT)


@pytest.mark.parametrize(("before", "after"), COUNTED)
def test_everything_else_that_a_definition_uses_counts(before: str, after: str) -> None:
    assert before in TEXT
    assert code("m.Kind", m=TEXT.replace(before, after)) != code("m.Kind", m=TEXT)


def test_docstring_that_the_module_reads_counts() -> None:
    asks = '"""{}"""\n\ndef made():\n    return ask(__doc__)\n'
    assert code("m.made", m=asks.format("Shorten.")) != code("m.made", m=asks.format("Expand."))


USES = {
    "import of a name": "from cotpress.b import used\ndef made(): return used()",
    "import under another name": "from cotpress.b import used as f\ndef made(): return f()",
    "import of the module": "from cotpress import b\ndef made(): return b.used()",
    "import of the dotted module": "import cotpress.b\ndef made(): return cotpress.b.used()",
    "import of the module under another name": "import cotpress.b as c\ndef made(): return c.used()",
    "relative import": "from .b import used\ndef made(): return used()",
    "relative import of the module": "from . import b\ndef made(): return b.used()",
    "import of everything": "from cotpress.b import *\ndef made(): return used()",
    "import in a function": "def made():\n    from cotpress.b import used\n    return used()",
    "import in a branch": "try:\n    from cotpress.b import used\nexcept OSError:\n    pass\ndef made(): return used()",
    "table": "from cotpress.b import used\nTABLE = {'x': used}\ndef made(): return TABLE['x']()",
    "default": "from cotpress.b import used\ndef made(f=used): return f()",
    "annotation": "from cotpress.b import used\ndef made(f: used): return f()",
    "base class": "from cotpress.b import used\nclass made(used): pass",
    "pattern": "from cotpress.b import used\ndef made(x):\n    match x:\n        case used(): return 1",
    "f-string": "from cotpress.b import used\ndef made(): return f'{used()}'",
    "helper": "from cotpress.b import used\ndef helper(): return used()\ndef made(): return helper()",
    "statement at the import": "from cotpress.b import used\nTABLE = {}\nTABLE['x'] = used\ndef made(): return TABLE",
    "registration": "from cotpress.b import used\nT = []\ndef add(f): T += [f]\n@add\ndef g(): used()\ndef made(): T",
    "export": "from cotpress.c import used\ndef made(): return used()",
}


@pytest.mark.parametrize("text", USES.values(), ids=USES)
def test_what_a_definition_uses_in_other_modules_counts(text: str) -> None:
    others = {"c": "from cotpress.b import used", "b": "def used(): return {}\ndef unused(): return 1"}
    first, second = (code("a.made", a=text, **{k: v.format(n) for k, v in others.items()}) for n in (1, 2))
    assert first["cotpress.a"] == second["cotpress.a"]
    assert first["cotpress.b"] != second["cotpress.b"]


@pytest.mark.parametrize("line", ["from math import {} as f", "import {} as f", "from .{} import g as f"])
def test_origin_of_a_name_counts(line: str) -> None:
    uses = [f"{line.format(name)}\nTABLE = [f]\ndef made(): return TABLE" for name in ("floor", "ceil")]
    assert code("a.made", a=uses[0]) != code("a.made", a=uses[1])


def test_other_definitions_of_an_imported_module_do_not_count() -> None:
    text = "from cotpress.b import used\nfrom cotpress import c\ndef made(): return used() + c.used()"
    other = "def used(): return 1\ndef unused(): return {}\n"
    first, second = (code("a.made", a=text, b=other.format(n), c=other.format(n)) for n in (1, 2))
    assert first == second


def test_imports_for_type_checkers_do_not_count() -> None:
    text = "if TYPE_CHECKING:\n    from cotpress.b import used\ndef made(f: 'used'): return f()"
    assert code("a.made", a=text, b="def used(): return 1").keys() == {"cotpress.a"}


def test_definition_that_cannot_be_found_by_reading_counts_with_its_module() -> None:
    text = "from cotpress.b import used\ndef made(): return used()"
    others = [f"for name in ['used']:\n    globals()[name] = {n}" for n in (1, 2)]
    assert code("a.made", a=text, b=others[0]) != code("a.made", a=text, b=others[1])


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Hash a plugin: a folder on the path of modules with these files, of which `plug` is imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(source, "_sources", Sources(source._sources.package))

    def hashed(**files: str) -> dict[str, str]:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_txt", ".txt")
            path = path if path.suffix else path.with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        for name in [name for name in sys.modules if name.startswith(("plug", "helper"))]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        try:
            module = importlib.import_module("plug")
        finally:
            sys.dont_write_bytecode = before
        monkeypatch.setattr(source, "_sources", Sources(source._sources.package))
        root: Any = getattr(module, "Scorer", module)
        assert isinstance(root, ModuleType) or root.__module__.startswith("plug")
        return code_of(root)

    return hashed


PLUGIN = "from cotpress.records import Trace\nclass Scorer:\n    def score(self): return {}\n"


def test_module_of_a_user_counts_whole(outside: Callable[..., dict[str, str]]) -> None:
    first = outside(plug=PLUGIN.format(1))
    assert first.keys() == {"plug", "cotpress.records"}
    assert outside(plug=PLUGIN.format(2))["plug"] != first["plug"]
    assert outside(plug=PLUGIN.format(1) + "TABLE = {}\n")["plug"] != first["plug"]
    assert outside(plug=PLUGIN.format(1) + "# a comment\n") == first


def test_modules_that_a_user_wrote_beside_it_count(outside: Callable[..., dict[str, str]]) -> None:
    text = "import numpy, json\nfrom helper import weight\nfrom helpers import more\n" + PLUGIN.format("weight")
    more = {"helpers__more": "x = 1"}
    first = outside(plug=text, helper="weight = 1", **more)
    assert first.keys() == {"plug", "helper", "helpers.more", "cotpress.records"}
    assert outside(plug=text, helper="weight = 2", **more) != first
    assert outside(plug=text, helper="weight = 1", **more | {"helpers__more": "x = 2"}) != first
    assert outside(plug=text, helper="weight = 1", **more) == first


def test_files_that_a_user_keeps_beside_the_module_count(outside: Callable[..., dict[str, str]]) -> None:
    text = PLUGIN.format("Path(__file__).with_name('words.txt')")
    first = outside(plug=text, words_txt="a")
    assert outside(plug=text, words_txt="b") != first
    text = PLUGIN.format("(Path(__file__).parent / 'words').read_text()")
    first = outside(plug=text, words__list_txt="a")
    assert outside(plug=text, words__list_txt="b") != first


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


def test_every_unfollowed_place_exists() -> None:
    known = source._sources.package
    for place in [*UNFOLLOWED, *(name for names in CHOICES.values() for name in names), *CHOICES]:
        module, _, symbol = place.rpartition(".")
        parents = {name.rpartition(".")[0] for name in known}
        assert place in known or place in parents or symbol in source._sources._module(module).definitions, place


def test_identities_that_differ_in_code_alone_name_the_changed_modules() -> None:
    before = {"a": 1, "code": {"m": "1", "n": "1"}, "parts": [{"code": {"o": "1"}}], "b": {"c": "code"}}
    after = {"a": 1, "code": {"m": "2", "n": "1", "p": "1"}, "parts": [{"code": {"o": "2"}}], "b": {"c": "code"}}
    assert without_code(before) == without_code(after) == {"a": 1, "parts": [{}], "b": {"c": "code"}}
    assert changed_modules(before, after) == {"m", "o", "p"}
    assert changed_modules(before, before) == set()
