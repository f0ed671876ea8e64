"""Errors meant for the person at the keyboard.

Every message says what is wrong, what was got, what is allowed and how to fix it. The entry scripts print
them without a stack trace; anything that is not a `CotpressError` is a defect and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class CotpressError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(CotpressError):
    """A configuration value is missing, misspelt or out of range."""


class DataError(CotpressError):
    """Input rows are missing, malformed or unusable."""


class ArtifactError(CotpressError):
    """A stage output on disk is missing, damaged or cannot be written."""


class ModelError(CotpressError):
    """A model or tokenizer cannot be found, loaded or used as asked."""


class GenerationError(CotpressError):
    """A generation server cannot be reached, refuses, or answers with something else."""


class HubError(CotpressError):
    """Something cannot be sent to a hub or a dashboard: no token, no access, no network."""


class TrainingError(CotpressError):
    """Training cannot go on: not a finite loss, nothing to train on, out of memory."""


class WorkerError(CotpressError):
    """A process that worked on one of several devices has died or failed."""


class MemoryLimitError(CotpressError):
    """The smallest possible batch does not fit the memory."""


class MissingExtraError(CotpressError):
    """An optional package is needed for what was asked."""

    def __init__(self, feature: str, package: str, install: str) -> None:
        super().__init__(f"{feature} needs the package '{package}', which is not installed. Fix: {install}")


def describe(error: BaseException) -> str:
    """An error in a note or a table: a message for users as it is, any other with its type."""
    return str(error) if isinstance(error, CotpressError) else f"{type(error).__name__}: {error}"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence that lists the choices, with the nearest one first when there is one."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Allowed: {', '.join(names)}." if names else hint


def require(key: str, got: object, ok: bool, allowed: str) -> None:
    """Refuse a setting that is out of range.

    Args:
        key: The setting, as it is typed.
        got: Its value.
        ok: True if the value is allowed.
        allowed: The values that are allowed, in words.

    Raises:
        ConfigError: `ok` is false.
    """
    if not ok:
        raise ConfigError(f"{key}: got {got!r}, allowed: {allowed}")
