"""Sources of records, and decorators that add some from outside of the package (see `cotpress.plugins`)."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from cotpress.data.config import BenchmarkConfig, DataConfig
from cotpress.errors import ConfigError
from cotpress.plugins import add_choice

R = TypeVar("R")
F = TypeVar("F", bound=Callable[[Any], Iterable[Any]])
Identity = Callable[[Any], Mapping[str, Any]]

_APPLIED_LATER = {f.name for base in (DataConfig, BenchmarkConfig) for f in fields(base)}
"""Settings that the data stage applies itself, to every source."""


@dataclass(frozen=True, slots=True)
class Source(Generic[R]):
    """Source of records, which `open` gives; the counters are complete once the records are exhausted."""

    identity: Mapping[str, Any]
    open: Callable[[], Iterable[R]]
    dropped: Counter[str] = field(default_factory=Counter)
    emptied: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)


SOURCES: dict[type, Callable[[Any], Source[Any]]] = {}
"""Registered sources by the class of their settings."""


def register_data(name: str, settings: type[DataConfig], identity: Identity | None = None) -> Callable[[F], F]:
    """Add the decorated function, settings to `Trace` records with unique ids, as the data source `data=NAME`.

    Args:
        name: Name on the command line.
        settings: Dataclass of its settings, a class of its own that derives from `DataConfig`.
        identity: Everything that determines the records, such as a file's checksum; None: the settings of the class.

    Raises:
        ConfigError: The settings belong to another source.
    """
    return _register(("data",), name, settings, identity)


def register_benchmark(
    name: str, settings: type[BenchmarkConfig], identity: Identity | None = None
) -> Callable[[F], F]:
    """Add the decorated function, settings to `Problem` records, as `benchmark=NAME` and `questions@...=NAME`.

    Arguments and errors as `register_data`, with `BenchmarkConfig`.
    """
    return _register(("benchmark", "questions"), name, settings, identity)


def _register(groups: Iterable[str], name: str, settings: type, identity: Identity | None) -> Callable[[F], F]:
    def default(config: Any) -> Mapping[str, Any]:
        return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in _APPLIED_LATER}

    def register(function: F) -> F:
        if settings in SOURCES or settings in (DataConfig, BenchmarkConfig):
            raise ConfigError(
                f"'{name}': the settings {settings.__name__} belong to another source. Fix: a class of its own"
            )
        own = identity or default
        SOURCES[settings] = lambda config: Source({"source": name, **own(config)}, lambda: function(config))
        for group in groups:
            add_choice(group, name, settings)
        return function

    return register
