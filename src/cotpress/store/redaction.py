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
from urllib.parse import quote

from cotpress.errors import ConfigError
from cotpress.terminal import escaped, one_line

MASK = "***"
_SECRET = (
    r"api[_-]?keys?|access[_-]?key|private[_-]?key|secret(?:[_-]?key)?|password|passwd|passphrase|token|credentials?"
)
_NAME = re.compile(rf"(?:^|[_-])(?:{_SECRET})$", re.IGNORECASE)
"""Names of settings with a secret value."""
_VARIABLE = re.compile(rf"(?:^|_)(?:\w*key|pass|pat|auth|authorization|cookie|dsn|{_SECRET})$", re.IGNORECASE)
"""Names of environment variables with a secret value."""
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[\w-]{16,}|(?:hf|gsk|r8|npm|api_org|fw|lsv2_[a-z]+|dop_v1|tgp_v1|[rs]k_(?:live|test))_"
    r"[A-Za-z0-9_]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl(?:pat|dt|ptt|cbt|rt|soat|ft)-[\w.-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|xapp-[\w-]{10,}|A(?:KI|SI)A[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{16,}|nvapi-[\w-]{16,}"
    r"|dckr_pat_[\w-]{16,}|csk-[\w-]{16,}|\d{8,10}:AA[\w-]{30,}|hooks\.slack\.com/services/\w+/\w+/\w+"
    r"|xai-[\w-]{16,}|pplx-[\w-]{16,}|pypi-[\w-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}|wandb_v1_\w{16,}"
    r"|local[\w-]*-[0-9a-f]{40}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*)"
)
"""Keys of OpenAI, Anthropic, Hugging Face, Groq, Replicate, GitHub, GitLab, Slack, AWS, Google, W&B and others."""
_USER_IN_URL = re.compile(r"(?<=://)(?:[^/\s'\"?#]+|[^/\s:@'\"?#]+:(?!\d+/)[^\s'\"@]+)@")
_KEY_IN_URL = re.compile(
    r"([?&;#](?:[\w.%-]*(?:[_.-]|api|app|access|auth|client|secret|id|aws\w*))?"
    r"(?:key|keyid|token|tok|bearer|secret|pass|passwd|password|pwd|pw|sig|signature|auth|authorization|code|credentials?|jwt"
    r"|session|sid|ticket)(?:=|%3d))[^&#;\s'\"]+",
    re.IGNORECASE,
)
_BEARER = re.compile(
    r"\b(Bearer|(?:Basic|Token)(?= +(?:[0-9a-f]{20}|[\w.~+/-]*\d[\w.~+/-]*[A-Z=]|[\w.~+/-]*[A-Z][\w.~+/-]*[\d=])))"
    r" +[\w.~+/=-]{8,}"
)
_NAMED = re.compile(
    rf"((?<![A-Za-z0-9/])(?:[\w-]*[_-])?(?:{_SECRET})['\"]?\s*[=:]\s*['\"]?)(?=[\w.~+/=-]*\d)[\w.~+/=-]{{8,}}",
    re.IGNORECASE,
)
"""A key after its name, as in `WANDB_API_KEY=...` or `"api_key": "..."`; keys have digits."""
_HEX_AFTER_NAME = re.compile(
    r"(\b(?:wandb|W&B|key|login|password)\b\W{1,20}(?:\w+\W{1,3})?)[0-9a-f]{40}\b", re.IGNORECASE
)
_COMMITS = re.compile(r"(?:^|_)(?:revision|commit|sha1?|hash)$")
"""Names of settings whose 40 hexadecimal digits are a commit, and no key of W&B."""
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_W_AND_B = re.compile(r"[0-9a-f]{40}")
_HEX_KEY = re.compile(r"[0-9a-fA-F]{32,}")
_MIN_CHARS = 8  # shorter values are taken for words

_read: set[str] = set()  # keys that this process has read from variables of any name


def remember(secret: str) -> None:
    """Mask a key from now on."""
    if len(secret) >= _MIN_CHARS:
        _read.add(secret)


def masked(value: Any) -> Any:
    """Copy `value` with `***` in place of secrets: under names such as `api_key`, and in every text."""
    return _masked(value, _known())


def without_secrets(text: str) -> str:
    """Mask keys and passwords in a text; characters that UTF-8 cannot encode (lone surrogates) are escaped."""
    return _without(text, _known())


def _masked(value: Any, known: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {
            _without(str(k), known): MASK if _NAME.search(str(k)) and v else _masked(v, known)
            for k, v in value.items()
        }  # fmt: skip
    if isinstance(value, list | tuple):
        return [_masked(v, known) for v in value]
    return _without(value, known) if isinstance(value, str) else value


def _known() -> list[str]:
    """Keys of this process, as they are and as in an address, longest first."""
    known = {*_read, *_environment()}
    return sorted(known | {quote(secret, safe="") for secret in known}, key=len, reverse=True)


def _without(text: str, known: list[str]) -> str:
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    for secret in known:
        text = text.replace(secret, MASK)
    text = _USER_IN_URL.sub(f"{MASK}@", text)
    for pattern in (_KEY_IN_URL, _NAMED, _HEX_AFTER_NAME):
        text = pattern.sub(rf"\1{MASK}", text)
    return _SHAPES.sub(MASK, _BEARER.sub(rf"\1 {MASK}", text))


def check_readable(arguments: Iterable[str]) -> None:
    """Raise a `ConfigError` for arguments that UTF-8 cannot encode, so that no file or message can contain them."""
    for argument in arguments:
        if argument != argument.encode("utf-8", "replace").decode("utf-8"):
            raise ConfigError(f"the command line cannot be read: {argument!a} is not UTF-8. Fix: rename the file")


def refuse_secret_arguments(arguments: Iterable[str]) -> None:
    """Raise a `ConfigError` for an argument `KEY=VALUE` with a key or password, see `refuse_secrets`."""
    for key, _, value in (argument.partition("=") for argument in arguments):
        refuse_secrets({key: value})


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
    bearer = _BEARER.search(value)
    has_shape = any(shape.search(value) for shape in (_SHAPES, _NAMED, _HEX_AFTER_NAME))
    if has_shape or (bearer is not None and re.search(r"\d", bearer[0])):
        return "a key"
    if _W_AND_B.fullmatch(value) and not _COMMITS.search(last):
        return "what looks like a key of W&B"
    if _USER_IN_URL.search(value) or _KEY_IN_URL.search(value):
        return "a user name, password or key in an address"
    return None


def _environment() -> set[str]:
    """Values of environment variables such as `WANDB_API_KEY`, without the paths of files and folders."""
    return {
        value.strip()
        for name, value in os.environ.items()
        if _VARIABLE.search(name)
        and len(value.strip()) >= _MIN_CHARS
        and not (value.startswith(("/", "~", ".")) and os.path.exists(os.path.expanduser(value)))  # noqa: PTH110, PTH111
    }
