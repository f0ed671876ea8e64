"""Keys and passwords: refused in settings, masked in all written or displayed text.

A key belongs in an environment variable. Settings that contain one are refused before anything is written. Logs,
tracebacks and server answers pass through `without_secrets`, which masks secret values of the environment, keys read by
this process (`remember`), the usual key formats, and users and keys in URLs.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from cotpress.errors import ConfigError
from cotpress.terminal import escaped, one_line

MASK = "***"
_NAME = re.compile(r"(?:^|_)(?:api_?key|secret|password|passwd|token|credentials?)$", re.IGNORECASE)
"""Names of settings with a secret value."""
_VARIABLE = re.compile(r"(?:^|_)(?:key|secret|password|passwd|pass|token|pat|credentials?)$", re.IGNORECASE)
"""Names of environment variables with a secret value."""
_SHAPES = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[a-z]-[\w-]{10,}|AKIA[A-Z0-9]{16}"
    r"|AIza[\w-]{30,}|nvapi-[\w-]{16,}|wandb_v1_\w{16,})"
)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s'\"]+@")
_KEY_IN_URL = re.compile(
    r"([?&;](?:[\w-]*[_-])?(?:key|token|secret|password|sig|signature|auth)=)[^&#\s'\"]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(Bearer|Basic) +[\w.~+/=-]{8,}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{32,}")
_MIN_CHARS = 8  # shorter values are taken for words

_read: set[str] = set()  # keys that this process has read from variables of any name


def remember(secret: str) -> None:
    """Mask a key from now on."""
    if len(secret) >= _MIN_CHARS:
        _read.add(secret)


def masked(value: Any) -> Any:
    """Copy `value` with `***` in place of secrets: under names such as `api_key`, and in every text."""
    if isinstance(value, Mapping):
        return {str(k): MASK if _NAME.search(str(k)) and v else masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(v) for v in value]
    return without_secrets(value) if isinstance(value, str) else value


def without_secrets(text: str) -> str:
    """Mask keys and passwords in a text; characters that UTF-8 cannot encode (lone surrogates) are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    for secret in sorted({*_read, *_environment()}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _USER_IN_URL.sub(f"{MASK}@", text)
    text = _KEY_IN_URL.sub(rf"\1{MASK}", text)
    return _SHAPES.sub(MASK, _BEARER.sub(rf"\1 {MASK}", text))


def check_readable(arguments: Iterable[str]) -> None:
    """Raise a `ConfigError` for arguments that UTF-8 cannot encode, so that no file or message can contain them."""
    for argument in arguments:
        if argument != argument.encode("utf-8", "replace").decode("utf-8"):
            raise ConfigError(f"the command line cannot be read: {argument!a} is not UTF-8. Fix: rename the file")


def refuse_secrets(values: Mapping[str, Any]) -> None:
    """Refuse settings, by dotted name or nested, with a key or password, as configurations and reports would show it.

    Raises:
        ConfigError: Names the setting, never its value.
    """
    for name, value in values.items():
        if isinstance(value, Mapping):
            refuse_secrets({f"{name}.{inner}": v for inner, v in value.items()})
        elif isinstance(value, list | tuple):
            refuse_secrets({f"{name}[{i}]": v for i, v in enumerate(value)})
        elif isinstance(value, str) and value not in ("", "null") and (what := _secret_in(name, value)):
            raise ConfigError(
                f"{without_secrets(name)}: it holds {what}, which would end up in config.yaml, logs and reports. "
                "Fix: put the key into an environment variable and give the variable's name, api_key_env=NAME; "
                "W&B and the hub read WANDB_API_KEY and HF_TOKEN by themselves"
            )


class Redacting(logging.Formatter):
    """Log formatter that passes lines and tracebacks through `shown`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return shown(super().format(record))


def shown(text: str) -> str:
    """Mask secrets and escape control characters, as a quoted row or file name could control the terminal.

    Lines after the first are indented, so that a name with a line feed forges no message.
    """
    return re.sub(r"\n(?=.)", "\n  ", escaped(without_secrets(text)))


def print_lines(*lines: str) -> None:
    """Write lines to standard output, each without secrets, control characters and line feeds in it."""
    sys.stdout.write("".join(f"{one_line(without_secrets(line))}\n" for line in lines))


def _secret_in(name: str, value: str) -> str | None:
    """Kind of secret in a setting, in words; None if there is none."""
    last = name.lstrip("+~").rpartition(".")[2]
    if last == "api_key_env":
        fits = _VARIABLE_NAME.fullmatch(value) and not _HEX_KEY.fullmatch(value) and not _SHAPES.search(value)
        return None if fits else "a key itself, not the name of an environment variable"
    if _NAME.search(last):
        return "a key or password"
    if _SHAPES.search(value):
        return "a key"
    if _USER_IN_URL.search(value) or _KEY_IN_URL.search(value):
        return "a user name, password or key in an address"
    return None


def _environment() -> set[str]:
    """Values of environment variables such as `WANDB_API_KEY`, without paths."""
    return {
        value.strip()
        for name, value in os.environ.items()
        if _VARIABLE.search(name) and len(value.strip()) >= _MIN_CHARS and not value.startswith(("/", "~", "."))
    }
