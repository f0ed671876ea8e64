"""Sources of records, and decorators that add some from outside of the package (see `cotpress.plugins`)."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_type_hints

from cotpress.answers.extraction import Extractor
from cotpress.data.config import BenchmarkConfig, DataConfig
from cotpress.data.rows import BadRow, text_problem
from cotpress.errors import ConfigError, DataError
from cotpress.plugins import add_choice
from cotpress.records import Problem, Trace
from cotpress.settings import is_input
from cotpress.store.artifacts import file_sha256
from cotpress.store.paths import files_below

if TYPE_CHECKING:
    from cotpress.store.source import Root

R = TypeVar("R")
F = TypeVar("F", bound=Callable[[Any], Iterable[Any]])
Identity = Callable[[Any], Mapping[str, Any]]

_APPLIED_LATER = {f.name for base in (DataConfig, BenchmarkConfig) for f in fields(base)} - {"strict"}
"""Settings that the data stage applies itself, to every source; `strict` is the source's own matter."""


@dataclass(frozen=True, slots=True)
class Source(Generic[R]):
    """Source of records, which `open` gives; the counters are complete once the records are exhausted.

    Attributes:
        code: What makes the records.
        dropped: Number of dropped rows by reason.
        emptied: Number of cells without text, read as empty, by column.
        numbered: Number of rows whose id was made unique, by reason.
        tally: Number of used generations that are marked as wrong, and of those that are not used.
        first: Place of the first dropped row by reason.
        drop: Counts the row that was read last as dropped, or raises an error; None: it has no rule of its own.
        by_question: True if questions, not ids, decide which traces are held out for validation.
        told: A line about the way in which the source is read; may be empty.
        warning: A line about a risk of this way; may be empty.
        note: A sentence on the files that are read and left out; empty if there is nothing to say.
    """

    identity: Mapping[str, Any]
    code: "Sequence[Root]"
    open: Callable[[], Iterable[R]]
    dropped: Counter[str] = field(default_factory=Counter)
    emptied: Counter[str] = field(default_factory=Counter)
    numbered: Counter[str] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    drop: Callable[..., None] | None = None
    by_question: bool = False
    told: str = ""
    warning: str = ""


def checked(source: Source[R], check: Callable[[R], R], *, strict: bool, group: str) -> Source[R]:
    """The same source with its records as `check` returns them; those for which it raises a `BadRow` are dropped.

    They are counted by their reason; if `strict`, the first one is a `DataError`.
    """

    def open_() -> Iterator[R]:
        for number, record in enumerate(source.open(), start=1):
            try:
                good = check(record)
            except BadRow as bad:
                if source.drop is not None:
                    source.drop(bad.reason, field=bad.field, got=bad.got, allowed=bad.allowed)
                elif strict:
                    raise DataError(
                        f"{group}, record {number}: {bad.reason}. Got: {bad.got}. Allowed: {bad.allowed}. Fix: "
                        f"correct the record, or drop and count such records with {group}.strict=false"
                    ) from None
                else:
                    source.dropped[bad.reason] += 1
                    source.first.setdefault(bad.reason, f"record {number}")
            else:
                yield good

    return replace(source, open=open_)


SPLITS = ("train", "validation")
SOURCES: dict[type, Callable[[Any], Source[Any]]] = {}
"""Registered sources by the class of their settings."""


def register_data(name: str, settings: type[DataConfig], identity: Identity | None = None) -> Callable[[F], F]:
    """Add the decorated function, settings to `Trace` records with unique ids, as the data source `data=NAME`.

    Traces in the split `validation` stay in it, and `validation_fraction` then does not apply.

    Args:
        name: Name on the command line.
        settings: Dataclass of its settings, a class of its own that derives from `DataConfig`.
        identity: Everything that determines the records; None: the settings of the class, and the checksums of the
            files and folders that its path fields name (`settings.is_input`: with the name `path` or of type `Path`).

    Raises:
        ConfigError: The settings belong to another source, or see `add_choice`.
    """
    return _register(("data",), name, settings, DataConfig, Trace, identity)


def register_benchmark(
    name: str, settings: type[BenchmarkConfig], identity: Identity | None = None
) -> Callable[[F], F]:
    """Add the decorated function, settings to `Problem` records, as `benchmark=NAME` and `questions@...=NAME`.

    Arguments and errors as `register_data`, with `BenchmarkConfig`.
    """
    return _register(("benchmark", "questions"), name, settings, BenchmarkConfig, Problem, identity)


def _register(
    groups: Iterable[str], name: str, settings: type, base: type, record: type, identity: Identity | None
) -> Callable[[F], F]:
    def register(function: F) -> F:
        if any(settings is kind for kind in SOURCES) or getattr(settings, "__module__", "") == base.__module__:
            raise ConfigError(
                f"'{name}': the settings {settings.__name__} belong to another source. Fix: a class of its own"
            )
        add_choice(groups, name, settings, base)
        own = identity or _settings_and_files
        SOURCES[settings] = lambda config: Source(
            {"source": name, **own(config)},
            (function, settings),
            lambda: _checked(name, config, function(config), record),
        )
        return function

    return register


def _settings_and_files(config: Any) -> dict[str, Any]:
    """The settings of the class, and the checksums of what its path fields name, folders with every file in them."""
    own = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in _APPLIED_LATER}
    hints = get_type_hints(type(config), include_extras=True)
    files: dict[str, list[Any]] = {}
    for name, value in own.items():
        if is_input(name, hints[name]):
            paths = [Path(path) for path in (value if isinstance(value, list) else [value]) if path]
            files[name] = [_checksum(path, name) for path in paths if path.is_file() or path.is_dir()]
    return own | ({"sha256": files} if files else {})


def _checksum(path: Path, key: str) -> str | dict[str, str]:
    """SHA-256 of a file; of every file in a folder, by its name below it."""
    if path.is_file():
        return file_sha256(path)
    return {file.relative_to(path).as_posix(): file_sha256(file) for file in files_below(path, key)}


def _checked(name: str, config: Any, records: Iterable[Any] | None, kind: type[Any]) -> Iterator[Any]:
    """Yield the records of a registered source; there are some, of the right class, with texts and ids of their own."""
    texts = [f.name for f in fields(kind) if f.type == "str"]
    ids: set[str] = set()
    for number, record in enumerate(records or (), start=1):
        where = f"source '{name}', record {number}"
        if not isinstance(record, kind):
            needed = ", ".join(f"{f.name}=..." for f in fields(kind) if f.default is MISSING)
            raise DataError(f"{where}: got a {type(record).__name__}. Fix: yield {kind.__name__}({needed})")
        for text, value in ((text, getattr(record, text)) for text in texts):
            if not isinstance(value, str):
                raise DataError(f"{where}: {text} is of type {type(value).__name__}, allowed: str. Fix: {text}=str(..)")
            if (problem := text_problem(value)) is not None:
                reason, got, allowed = problem
                raise DataError(f"{where}: {reason} in {text}. Got: {got}. Allowed: {allowed}")
        if isinstance(record, Trace) and record.split not in SPLITS:
            raise DataError(f"{where}: got split={record.split!r:.40}, allowed: {' or '.join(SPLITS)}")
        if record.id in ids:
            raise DataError(f"{where}: the id '{record.id}' is that of an earlier record. Fix: give each its own id")
        if isinstance(record, Problem) and record.extractor not in (Extractor.math.value, config.extractor.value):
            raise DataError(
                f"{where}: got extractor='{record.extractor}', but all problems have that of the settings, "
                f"'{config.extractor.value}'. Fix: the field `extractor: Extractor = Extractor.{record.extractor}` in "
                f"{type(config).__name__}"
            )
        ids.add(record.id)
        yield record
    if not ids:
        raise DataError(f"source '{name}' gives no records. Fix: its function yields {kind.__name__} records")
