"""Errors that a user can act on.

A message states the problem, the value, the allowed values and the fix. The entry scripts print it without a stack
trace; any error that is no `CotpressError` is a defect and keeps its traceback.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence


class CotpressError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(CotpressError):
    """A configuration value is missing, misspelt or out of range."""


class DataError(CotpressError):
    """Input rows are missing, malformed or unusable."""


class ArtifactError(CotpressError):
    """A stage output on disk is missing, damaged or cannot be written."""


class UnreadableError(ArtifactError):
    """The system does not hand out a file: no permission, a broken disk or network, too many open files.

    Nothing is known about its content, so it is neither damaged nor missing.
    """


class ModelError(CotpressError):
    """A model or tokenizer cannot be found, loaded or used as configured."""


class GenerationError(CotpressError):
    """A generation server cannot be reached, refuses, or answers in another format."""


class NotServedError(GenerationError):
    """A server has not loaded the whole model that is asked for; another server may have."""


class HubError(CotpressError):
    """An upload to a hub or a dashboard fails: no token, no access, no network."""


class TrainingError(CotpressError):
    """Training cannot continue: a loss that is not finite, no training data, out of memory."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has ended the work, as by a scheduler; what is finished is kept."""


class WorkerError(CotpressError):
    """The process of one of several devices failed."""


class MemoryLimitError(CotpressError):
    """The smallest possible batch does not fit into memory."""


class MissingExtraError(CotpressError):
    """A setting needs an optional package that is not installed."""

    def __init__(self, feature: str, package: str, install: str) -> None:
        super().__init__(f"{feature} needs the package '{package}', which is not installed. Fix: {install}")


def install_extra(extra: str) -> str:
    """The command that installs what an extra of this package holds, wherever the package itself came from."""
    import importlib.metadata

    try:
        lines = importlib.metadata.requires("cotpress") or []
    except importlib.metadata.PackageNotFoundError:
        return f"pip install -e '.[{extra}]' in the checkout of cotpress"
    needed = [line.partition(";")[0].strip() for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return f"pip install {shlex.join(needed)} (the extra {extra} of cotpress)"


def raise_together(problems: Sequence[CotpressError]) -> None:
    """Raise several problems as one error; nothing without a problem.

    Raises:
        CotpressError: The only problem, as it is.
        ConfigError: Several problems, each once.
    """
    distinct = list({str(problem): problem for problem in problems}.values())
    if len(distinct) == 1:
        raise distinct[0]
    if distinct:
        raise ConfigError(numbered(map(str, distinct)))


def numbered(problems: Iterable[str]) -> str:
    """A message of several problems, each once, with a number where there are several."""
    distinct = list(dict.fromkeys(problems))
    if len(distinct) == 1:
        return distinct[0]
    lines = "\n".join(f"{number}. {problem}" for number, problem in enumerate(distinct, start=1))
    return f"{len(distinct)} problems:\n{lines}"


def describe(error: BaseException) -> str:
    """The text of an error for notes and tables: messages for users as they are, others with their type."""
    return str(error) if isinstance(error, CotpressError) else f"{type(error).__name__}: {error}"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence with the nearest choice, if one is near, and all choices."""
    names = sorted(choices)
    same = [other for other in names if _letters(other) == _letters(name)]
    close = same or difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    hint = f" Did you mean '{close[0]}'?" if close and close[0] != name else ""
    return f"{hint} Allowed: {', '.join(names)}." if names else hint


def _letters(name: str) -> str:
    """Letters and digits of a name, in lower case: `Qwen-14B` and `qwen14b` are the same."""
    return re.sub(r"[\W_]", "", name).lower()


def require(key: str, got: object, ok: bool, allowed: str) -> None:
    """Raise a `ConfigError` for a setting, as typed on the command line, unless its value is `ok`.

    `allowed` describes the allowed values in words.
    """
    if not ok:
        raise ConfigError(f"{key}: got {got!r}, allowed: {allowed}")
