"""The source code that determines a result, by which an artifact is found again only while that code is unchanged.

A root is the function or class that makes a result. With it count all definitions that it uses, in its own module and
in those that it imports, also inside of functions, but not under TYPE_CHECKING. So an edit computes anew what depends
on it and nothing else. Docstrings, comments and blank lines do not count, and the hashes are the same under every
version of Python. `UNFOLLOWED` and `CHOICES` list what else does not count. A method that is called on an argument
counts if its class is a root or is named in an annotation.

Outside of this package (a scorer or data source of the user) a module counts whole, with the modules that it imports
from its own folder, the working directory and PYTHONPATH, and with the files beside it that it names.

The files of the package are read when this module is imported. The hashes are thus those of the code that runs, also if
a file is edited while a job runs, or between the jobs of a sweep.
"""

import ast
import functools
import hashlib
import os
import re
import sys
import sysconfig
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NewType

Root = Callable[..., Any] | ModuleType
"""A function or class of a module, or a module."""
Identity = NewType("Identity", dict[str, Any])
"""Everything that determines the content of an artifact; made by `identified`."""
CODE = "code"
"""Key of an identity, at any depth, with the hashes of code by module."""

PACKAGE = __name__.partition(".")[0]
UNFOLLOWED = {
    "cotpress.errors": "messages",
    "cotpress.progress": "what is shown while a stage works",
    "cotpress.tracking": "what is shown while a stage works",
    "cotpress.plugins": "registration; the registered code is a root",
    "cotpress.settings": "refuses values and changes none",
    "cotpress.devices.config": "where and how fast; what else it changes is part of identities",
    "cotpress.devices.launch": "starts one process per device",
    "cotpress.devices.processes": "starts and stops processes",
    "cotpress.store.artifacts": "stores what a stage made, and checks it",
    "cotpress.store.journal": "keeps answers that are finished",
    "cotpress.store.paths": "refuses paths",
    "cotpress.store.redaction": "hides keys in messages",
    "cotpress.store.source": "this module",
    "cotpress.modeling.foreign": "refuses folders and changes none",
    "cotpress.modeling.hub": "messages",
    "cotpress.modeling.tiny": "the identity of a model names its content",
    "cotpress.modeling.sources.packaged_model": "the identity of a model names its content",
    "cotpress.modeling.loading.model_identity": "its value is part of the identity",
    "cotpress.modeling.loading.tokenizer_fingerprint": "its value is part of the identity",
    "cotpress.modeling.sources.source_identity": "its value is part of the identity",
    "cotpress.generation.backends.generation_identity": "its value is part of the identity",
}
"""Modules, packages and definitions that are not followed, with the reason: a change of them changes no result, or it
changes another part of the identity."""
CHOICES = {
    "cotpress.data.registry": ("cotpress.data.registry.SOURCES",),
    "cotpress.data.stage": ("cotpress.data.planted", "cotpress.data.published", "cotpress.data.rows",
                            "cotpress.data.self_written"),
    "cotpress.data.truth": ("cotpress.data.planted", "cotpress.data.truth.prmbench",
                            "cotpress.data.truth.thought_anchors"),
    "cotpress.distill.stage": ("cotpress.distill.llm.aligned", "cotpress.distill.llm.extract",
                               "cotpress.distill.stage.essential_spans", "cotpress.distill.stage.overlapping_steps"),
    "cotpress.generation.backends": ("cotpress.generation.hf", "cotpress.generation.server",
                                     "cotpress.modeling.loading"),
    "cotpress.scoring.job": ("cotpress.scoring.base", "cotpress.scoring.reader", "cotpress.scoring.scorers",
                             "cotpress.scoring.table"),
}  # fmt: skip
"""By module, what is not followed from there, as the module chooses from it by the settings: the choice is a root."""

_Place = tuple[str, str | None]
"""Module and definition; no definition is the whole module."""
_LARGE = 2**24
_FILE_NAME = re.compile(r"[\w-][\w./-]*")


def identified(settings: Mapping[str, Any], *roots: Root) -> Identity:
    """Join the settings that determine a result with the code that computes it."""
    return Identity({**settings, CODE: code_of(*roots)})


def code_of(*roots: Root) -> dict[str, str]:
    """Hash of the source that determines what the roots compute, by module: 12 hex digits each."""
    return _sources.code(frozenset(map(_place, roots)))


def package_hash() -> str:
    """Hash of all files of this package, comments and templates of pages included."""
    digest = hashlib.sha256()
    for path, content in _FILES.items():
        digest.update(f"{path.relative_to(_FOLDER)}\n".encode() + content)
    return digest.hexdigest()[:16]


def without_code(identity: Any) -> Any:
    """Copy an identity without its hashes of code, at any depth: what the settings alone determine."""
    if isinstance(identity, Mapping):
        return {key: without_code(value) for key, value in identity.items() if key != CODE}
    return [without_code(value) for value in identity] if isinstance(identity, list | tuple) else identity


def changed_modules(before: Any, after: Any) -> set[str]:
    """Modules whose hashes differ between two identities that are equal without code."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        pairs = zip(before, after, strict=True) if isinstance(before, list | tuple) else ()
        return set().union(*(changed_modules(a, b) for a, b in pairs))
    changed: set[str] = set()
    for key in before.keys() | after.keys():
        old, new = before.get(key, {}), after.get(key, {})
        changed |= {m for m in {*old, *new} if old.get(m) != new.get(m)} if key == CODE else changed_modules(old, new)
    return changed


def _place(root: Root) -> _Place:
    if isinstance(root, ModuleType):
        return root.__name__, None
    if isinstance(root, functools.partial):
        return _place(root.func)
    named: Any = root if hasattr(root, "__qualname__") else type(root)
    return named.__module__, named.__qualname__.partition(".")[0]


class Sources:
    """Python modules by name, each parsed once.

    Args:
        package: Path and text of the modules of this package. Others are read from disk when they are needed.
    """

    def __init__(self, package: Mapping[str, tuple[Path, bytes]]) -> None:
        self.package = package
        self._modules: dict[str, _Module | None] = {}
        self._folders: dict[str, Path] = {}
        self.code = functools.cache(self._code)

    def _code(self, roots: frozenset[_Place]) -> dict[str, str]:
        for name, _ in roots:
            if not _is_own(name):
                self._add_outside(name)
        counted: dict[str, set[int]] = {}
        pending, seen = [*roots], set[_Place]()
        while pending:
            name, symbol = place = pending.pop()
            if place in seen:
                continue
            seen.add(place)
            if (module := self._module(name)) is None:
                if symbol is not None and not _is_own(name):  # a folder without `__init__.py`
                    pending.append((f"{name}.{symbol}", None))
                continue
            statements, targets = counted.setdefault(name, set()), list[_Place]()
            used: Iterable[int] = module.definitions.get(symbol or "", ())
            if symbol is None or not _is_own(name):
                used = module.all
                targets += [imported for places in module.imports.values() for imported in places]
                targets += [(f"{name}.{symbol}", None)] if symbol is not None else []  # it may be a module
            elif symbol in module.imports:
                targets += module.imports[symbol]
            elif not used:  # not found by reading
                used = module.all
            new = {*used, *module.acting} - statements
            statements |= new
            targets += [target for number in new for target in module.statement(number).targets]
            pending += (target for target in targets if _is_followed(name, target))
        texts = {name: [self._text(name, n) for n in sorted(numbers)] for name, numbers in counted.items() if numbers}
        return {name: hashlib.sha256(b"\n".join(text)).hexdigest()[:12] for name, text in sorted(texts.items())}

    def _text(self, name: str, number: int) -> bytes:
        module = self._module(name)
        assert module is not None
        return module.statement(number).text

    def _module(self, name: str) -> "_Module | None":
        """The module of this name; None for one of the standard library or of an installed package."""
        if name not in self._modules:
            found = self.package.get(name) if _is_own(name) else self._outside(name)
            self._modules[name] = None if found is None else _Module(name, *found, self.package)
        return self._modules[name]

    def _add_outside(self, name: str) -> None:
        """Read a root outside of this package, and remember the folder in which its own modules lie."""
        file = getattr(sys.modules[name], "__file__", None)
        if file is None:  # typed into an interpreter: never found again
            self._modules[name] = _Module(name, Path(name), f"__file__ = '{uuid.uuid4()}'".encode(), {})
        elif name not in self._modules:
            path = Path(file).absolute()
            self._folders[name.partition(".")[0]] = path.parents[name.count(".") + (path.name == "__init__.py")]
            self._modules = {known: module for known, module in self._modules.items() if module is not None}
            self._modules[name] = _Module(name, path, path.read_bytes(), self.package)

    def _outside(self, name: str) -> tuple[Path, bytes] | None:
        """Path and text of a module that a root outside of this package imports, if it is the user's own."""
        if (own := self._folders.get(name.partition(".")[0])) is not None:
            folders = [own]
        else:
            searched = [*self._folders.values(), *map(Path, ("", *os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
            folders = [folder for folder in map(Path.absolute, searched) if not _is_installed(folder)]
        inner = name.replace(".", os.sep)
        paths = [path for folder in folders for path in (folder / f"{inner}.py", folder / inner / "__init__.py")]
        path = next(filter(Path.is_file, paths), None)
        return None if path is None else (path, path.read_bytes())


class _Statement:
    """A statement on the top level of a module.

    Attributes:
        text: Its source without docstrings and comments, the origin of the imported names that it uses, and the content
            of the files that it names.
        targets: Places of other modules, and definitions of its own, that it uses.
    """

    def __init__(self, module: "_Module", node: ast.stmt) -> None:
        names: set[str] = set()
        attributes: set[tuple[str, str]] = set()
        spans: list[tuple[int, int, int, int]] = []  # texts: first line and column, last line and column
        documentation: list[tuple[int, int, int, int]] = []
        files: list[bytes] = []
        self.targets: list[_Place] = []
        pending: list[ast.AST] = [node]
        while pending:
            match pending.pop():
                case ast.If(test=test, orelse=orelse) if _is_typing(test):
                    pending += orelse
                    continue
                case ast.Name(id=name):
                    names.add(name)
                case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                    attributes.add((name, attribute))
                    continue
                case ast.Import() | ast.ImportFrom() as imported:
                    self.targets += [place for _, place in module.imported(imported)]
                case ast.Expr(value=ast.Constant(value=str())) as shown:
                    documentation.append(_span(shown))
                    continue
                case ast.JoinedStr() as shown:  # positions inside of it differ between versions of Python
                    spans.append(_span(shown))
                    names |= {part.id for part in ast.walk(shown) if isinstance(part, ast.Name)}
                    continue
                case ast.Constant(value=str() | bytes() as text) as shown:
                    spans.append(_span(shown))
                    files += module.files_named(text)
                case other:
                    pending += ast.iter_child_nodes(other)
        for name, attribute in attributes:
            # `planted.traces` uses one definition of a module, `Trace.of` the whole class.
            places = module.imports.get(name, [])
            self.targets += [(place[0], attribute) if place[1] is None else place for place in places]
            names |= set() if places else {name}
        used = names | {name for name, _ in attributes} | {"*"}
        origins = [f"{name} {place}".encode() for name in sorted(used) for place in module.imports.get(name, [])]
        for name in (*names, "*"):
            self.targets += module.imports.get(name, [])
            self.targets += [(module.name, name)] if name in module.definitions else []
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        if module.shows_documentation:
            spans, documentation = spans + documentation, []
        lines = module.lines_between(first, node.end_lineno or first, spans, documentation)
        self.text = b"\n".join([*lines, *origins, *files])


class _Module:
    """A parsed module: its statements, and the names that they define or import."""

    def __init__(self, name: str, path: Path, text: bytes, known: Container[str]) -> None:
        self.name, self._folder, self._known = name, path.parent, known
        self._package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self._lines = text.splitlines()
        self.shows_documentation, self._finds_files = b"__doc__" in text, b"__file__" in text or b"resources" in text
        self._nodes: list[ast.stmt] = []
        self.definitions: dict[str, list[int]] = {}
        self.imports: dict[str, list[_Place]] = {}
        self.acting: list[int] = []  # statements that do something when the module is imported
        for node in ast.parse(text).body:
            self._add(node)
        self.all = range(len(self._nodes))
        self.statement = functools.cache(lambda number: _Statement(self, self._nodes[number]))

    def _add(self, node: ast.stmt) -> None:
        defined: list[str] = []
        match node:
            case ast.Import() | ast.ImportFrom():
                for name, place in self.imported(node):
                    self.imports.setdefault(name, []).append(place)
                return
            case ast.If(test=test) if _is_typing(test):
                return
            case ast.Expr(value=ast.Constant()) if not self.shows_documentation:
                return
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                defined = [node.name]
                acts = any(self._may_register(decorator) for decorator in node.decorator_list)
            case ast.Assign(targets=targets):
                named = [n for target in targets for n in (target.elts if isinstance(target, ast.Tuple) else [target])]
                defined = [n.id for n in named if isinstance(n, ast.Name)]
                acts = len(defined) < len(named)
            case ast.AnnAssign(target=ast.Name(id=name)):
                defined, acts = [name], False
            case _:  # e.g. `try: import x`
                acts = True
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Import | ast.ImportFrom):
                        for name, place in self.imported(inner):
                            self.imports.setdefault(name, []).append(place)
        for name in defined:
            self.definitions.setdefault(name, []).append(len(self._nodes))
        if acts:
            self.acting.append(len(self._nodes))
        self._nodes.append(node)

    def _may_register(self, decorator: ast.expr) -> bool:
        """True for a decorator of a module that counts itself: it may put what it decorates into a table."""
        first = next((n.id for n in ast.walk(decorator) if isinstance(n, ast.Name)), "")
        return first in self.definitions or any(_is_own(module) for module, _ in self.imports.get(first, ()))

    def imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, _Place]]:
        """Yield the names that an import gives, each with its place."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], (alias.name, None)
            return
        parents = self._package.split(".")
        above = parents[: len(parents) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{module}.{alias.name}"
            place = (inner, None) if inner in self._known else (module, None if alias.name == "*" else alias.name)
            yield alias.asname or alias.name, place

    def files_named(self, text: str | bytes) -> list[bytes]:
        """Content of the file beside the module with this name, or of the files in that folder."""
        if not isinstance(text, str) or len(text) > 100 or not _FILE_NAME.fullmatch(text):
            return []
        path = self._folder / text
        if path.is_dir() and self._finds_files:
            files = sorted(file for file in path.iterdir() if file.is_file())
        else:
            files = [path] if "." in text and path.is_file() else []
        return [_content(file) for file in files if file.suffix not in (".py", ".pyc")]

    def lines_between(
        self,
        first: int,
        last: int,
        spans: Sequence[tuple[int, int, int, int]],
        documentation: Sequence[tuple[int, int, int, int]],
    ) -> list[bytes]:
        """Source lines, counted from 1, without blank lines, comments and documentation; `spans` are other texts."""
        lines = {number: self._lines[number - 1] for number in range(first, last + 1)}
        texts: dict[int, list[tuple[int, int]]] = {}  # columns of all texts on a line
        for start, column, end, end_column in (*spans, *documentation):
            for number in range(start, end + 1):
                within = column if number == start else 0, end_column if number == end else sys.maxsize
                texts.setdefault(number, []).append(within)
        for number, line in lines.items():
            at = line.find(b"#")
            while at >= 0 and any(begin <= at < stop for begin, stop in texts.get(number, ())):
                at = line.find(b"#", at + 1)
            lines[number] = line[:at] if at >= 0 else line
        for start, column, end, end_column in sorted(documentation, reverse=True):
            before, behind = lines[start][:column], lines[end][end_column:]
            lines |= {**dict.fromkeys(range(start, end + 1), b""), end: behind, start: before}
            lines[start] += behind if start == end else b""
        kept = {number for start, _, end, _ in spans for number in range(start, end)}  # their line ends are in a text
        return [
            line if number in kept else line.rstrip()
            for number, line in lines.items()
            if number in kept or line.strip()
        ]


def _content(file: Path) -> bytes:
    """Content of a file; of a large one its name, size and time."""
    status = file.stat()
    return file.read_bytes() if status.st_size <= _LARGE else f"{file} {status.st_size} {status.st_mtime_ns}".encode()


def _span(node: Any) -> tuple[int, int, int, int]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def _is_typing(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))


def _is_own(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _is_followed(user: str, place: _Place) -> bool:
    """True if what the module `user` uses at this place counts."""
    name = ".".join(filter(None, place))
    if place[0] == user:  # a module that others do not follow is whole in itself
        return name not in UNFOLLOWED and name not in CHOICES.get(user, ())
    parts = name.split(".")
    below = {".".join(parts[: n + 1]) for n in range(len(parts))}
    return below.isdisjoint(UNFOLLOWED) and below.isdisjoint(CHOICES.get(user, ()))


def _is_installed(path: Path) -> bool:
    """True for a file of the standard library or of an installed package."""
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or path.is_relative_to(_STANDARD_LIBRARY)


def _module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(_FOLDER).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_FOLDER = Path(__file__).parents[1]
_FILES = {path: path.read_bytes() for path in sorted(_FOLDER.rglob("*")) if path.is_file() and path.suffix != ".pyc"}
_sources = Sources({_module_name(path): (path, text) for path, text in _FILES.items() if path.suffix == ".py"})
