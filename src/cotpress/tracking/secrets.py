"""What must not leave this machine with a configuration or a message."""

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(r"(?:^|_)(?:api_?key|secret|password|token|credentials?)$", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_MIN_SECRET_CHARS = 8
"""Shorter values of environment variables are words, not keys."""


def masked(value: Any) -> Any:
    """`value` with `***` for secrets: under names such as `api_key`, in URLs, and what the environment holds as one."""
    if isinstance(value, Mapping):
        return {str(k): "***" if _SECRET.search(str(k)) and v else masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(v) for v in value]
    return without_secrets(value) if isinstance(value, str) else value


def without_secrets(text: str) -> str:
    """`text` without users in URLs and without the values of environment variables such as `WANDB_API_KEY`."""
    for name, secret in os.environ.items():
        if _SECRET.search(name) and len(secret) >= _MIN_SECRET_CHARS:
            text = text.replace(secret, "***")
    return _USER_IN_URL.sub("***@", text)
