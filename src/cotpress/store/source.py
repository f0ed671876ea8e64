"""The source code that determines a result, by which an artifact is found again only while that code is unchanged.

A root is a function, class or module that makes a result. With its module count the modules that it imports, also
inside of functions, but not under TYPE_CHECKING, and the files beside them that they name. Docstrings, comments and
line breaks do not count, and a hash is the same under every version of Python. `UNFOLLOWED` and `CHOICES` list imports
that do not count. Installed packages do not count either; a scorer or data source of the user does, with the modules of
the user that it imports.

The files of this package are read when this module is imported: the hashes are those of the code that runs, also if a
file is edited while a job runs, or between the jobs of a sweep.
"""

import ast
import functools
import hashlib
import importlib.util
import io
import re
import sys
import tokenize
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NewType

Root = Callable[..., Any] | ModuleType
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
    "cotpress.scoring.guard": "refuses scores of plugins and changes none",
    "cotpress.invocation": "names of commands in messages",
    "cotpress.devices.launch": "starts one process per device",
    "cotpress.devices.forkserver": "starts processes",
    "cotpress.devices.nodes": "connects machines",
    "cotpress.devices.processes": "starts and stops processes",
    "cotpress.devices.stopping": "ends a training, which goes on later",
    "cotpress.generation.watchdog": "ends a process",
    "cotpress.store.artifacts": "stores what a stage made, and checks it",
    "cotpress.store.journal": "keeps answers that are finished",
    "cotpress.store.paths": "refuses paths",
    "cotpress.store.redaction": "hides keys in messages",
    "cotpress.store.source": "this module",
    "cotpress.modeling.foreign": "refuses folders and changes none",
    "cotpress.modeling.hub": "messages",
    "cotpress.terminal": "shows texts",
    "cotpress.modeling.tiny": "the identity of a model names its content",
}
"""Modules and packages whose change changes no result, or changes another part of the identity. Modules named `config`
are not followed either: the values of settings are part of identities."""
CHOICES = {
    "cotpress.compression.cutting": {"cotpress.answers", "cotpress.compression.first_solution"},
    "cotpress.compression.stage": {"cotpress.answers", "cotpress.compression.first_solution"},
    "cotpress.data.conversion": {"cotpress.answers", "cotpress.data.statement"},
    "cotpress.data.formats": {"cotpress.data.statement"},  # a text
    "cotpress.data.registry": {"cotpress.answers"},  # the names of extractors
    "cotpress.data.stage": {"cotpress.data.conversion", "cotpress.data.files", "cotpress.data.formats",
                            "cotpress.data.hub", "cotpress.data.planted", "cotpress.data.published",
                            "cotpress.data.recognition", "cotpress.data.rows", "cotpress.data.self_written"},
    "cotpress.data.truth": {"cotpress.data.planted"},
    "cotpress.distill.stage": {"cotpress.distill.llm"},
    "cotpress.evaluation.stage": {"cotpress.answers", "cotpress.evaluation.judging"},  # no part of an answer
    "cotpress.generation.backends": {"cotpress.generation.hf", "cotpress.generation.server",
                                     "cotpress.generation.vllm", "cotpress.generation.vllm_server",
                                     "cotpress.modeling.loading"},
    "cotpress.scoring.job": {"cotpress.scoring.base", "cotpress.scoring.reader", "cotpress.scoring.scorers",
                             "cotpress.scoring.table"},
}  # fmt: skip
"""By module, its imports that are not followed, as it chooses among them by the settings: the choice is a root."""
_UNCOUNTED = {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
_ENDS = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
_FILE_NAME = re.compile(r"""["']([\w-]+\.\w+)["']""")


def identified(settings: Mapping[str, Any], *roots: Root) -> Identity:
    """Join the settings that determine a result with the code that computes it."""
    return Identity({**settings, CODE: code_of(*roots)})


def code_of(*roots: Root) -> dict[str, str]:
    """Hash of the source that determines what the roots compute, by module: 12 hex digits each."""
    return _sources.code(frozenset(map(_module_of, roots)))


def package_hash() -> str:
    """Hash of all files of this package, comments and templates of pages included: 16 hex digits."""
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


def _module_of(root: Root) -> str:
    if isinstance(root, ModuleType):
        return root.__name__
    if isinstance(root, functools.partial):
        return _module_of(root.func)
    return root.__module__


class Sources:
    """Hashes and imports of Python modules; each module is read once.

    Args:
        package: Path and text of the modules of this package. Others are read from disk when they are needed.
    """

    def __init__(self, package: Mapping[str, tuple[Path, bytes]]) -> None:
        self.package = package
        self.code = functools.cache(self._code)
        self._module = functools.cache(self._read)

    def _code(self, roots: frozenset[str]) -> dict[str, str]:
        counted: dict[str, str] = {}
        pending = [*roots]
        while pending:
            name = pending.pop()
            if name in counted or (module := self._module(name)) is None:
                continue
            counted[name], imports = module
            pending += (other for other in imports if _uses(name, other, roots))
        return dict(sorted(counted.items()))

    def _read(self, name: str) -> tuple[str, frozenset[str]] | None:
        """Hash of a module and the names that it imports; None if there is no source of this name."""
        if _is_own(name):
            if (known := self.package.get(name)) is None:
                return None
            path, content = known
        elif (found := _specification(name)) is None:
            # Code that was typed into an interpreter is never found again.
            return (uuid.uuid4().hex[:12], frozenset()) if name in sys.modules else None
        elif found.origin is None or not found.origin.endswith(".py"):
            return None  # a folder without `__init__.py`, or no Python
        else:
            path = Path(found.origin)
            content = path.read_bytes()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        tokens = list(_significant(content.decode().replace("\r\n", "\n")))
        digest = hashlib.sha256("\0".join(tokens).encode())
        for file in _files_named(tokens, path.parent):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:12], frozenset(_imported(ast.parse(content), package))


def _files_named(tokens: Iterable[str], folder: Path) -> list[Path]:
    """Data files of a folder that a module names in a text."""
    names = {match[1] for token in tokens if (match := _FILE_NAME.fullmatch(token))}
    return [folder / name for name in sorted(names) if not name.endswith(".py") and (folder / name).is_file()]


def _significant(text: str) -> Iterator[str]:
    """Yield the tokens of a module that change what it does: no comment, docstring or line break inside of brackets."""
    lines = text.splitlines(keepends=True)
    statement: list[tokenize.TokenInfo] = []
    start, depth = (0, 0), 0  # of an f-string, which is several tokens since Python 3.12
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _UNCOUNTED:
            continue
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":
            start, depth = (start, depth + 1) if depth else (token.start, 1)
        elif name == "FSTRING_END":
            depth -= 1
            token = token._replace(type=tokenize.OP, string=_between(lines, start, token.end))
        if depth:
            continue
        if token.type not in _ENDS:
            statement.append(token)
            continue
        if "__doc__" in text or not statement or any(part.type != tokenize.STRING for part in statement):
            yield from (part.string for part in statement)
            yield name
        statement = []


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Text between two positions, each line from 1 and column from 0."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    return "".join([lines[start[0] - 1][start[1] :], *lines[start[0] : end[0] - 1], lines[end[0] - 1][: end[1]]])


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the modules that a module imports; of `from a import b` both a and a.b, one of which may be none."""
    pending: list[ast.AST] = [tree]
    while pending:
        match pending.pop():
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=orelse):
                pending += orelse
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package.split(".")
                base = ".".join(
                    [*(parents[: len(parents) - level + 1] if level else []), *([module] if module else [])]
                )
                yield base
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.expr():
                pass
            case other:
                pending += ast.iter_child_nodes(other)


def _uses(user: str, name: str, roots: Iterable[str]) -> bool:
    """Return True if the import of `name` by `user` counts."""
    if _is_own(name):
        return is_followed(name) and _above(name).isdisjoint(CHOICES.get(user, ()))
    top = name.partition(".")[0]
    return not _is_own(user) and (top in {root.partition(".")[0] for root in roots} or not _is_installed(top))


def is_followed(name: str) -> bool:
    """Return True for a module of this package that counts where it is imported."""
    return "config" not in name.split(".")[-2:] and _above(name).isdisjoint(UNFOLLOWED)


def _above(name: str) -> set[str]:
    """The name of a module and of the packages around it."""
    parts = name.split(".")
    return {".".join(parts[: n + 1]) for n in range(len(parts))}


def _is_own(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _specification(name: str) -> ModuleSpec | None:
    """Find the place of a module outside of this package; None if Python does not know it."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):  # e.g. the name of a function
        return None


@functools.cache
def _is_installed(top: str) -> bool:
    """Return True for a module of the standard library or of an installed package."""
    if top in sys.stdlib_module_names or (found := _specification(top)) is None:
        return True
    places = [found.origin or "", *(found.submodule_search_locations or ())]
    return any(not {"site-packages", "dist-packages"}.isdisjoint(Path(place).parts) for place in places)


def _module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(_FOLDER).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_FOLDER = Path(__file__).parents[1]
_CONF = _FOLDER / "conf"
"""The YAML files, which are a link in a checkout: their settings are part of identities."""
_FILES = {
    path: path.read_bytes()
    for path in sorted(_FOLDER.rglob("*"))
    if path.is_file() and path.suffix != ".pyc" and not path.is_relative_to(_CONF)
}
_sources = Sources({_module_name(path): (path, text) for path, text in _FILES.items() if path.suffix == ".py"})
