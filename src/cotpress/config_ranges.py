"""Ranges of numbers and texts that hold wherever a setting of that name stands, checked before anything is read."""

import math
from collections.abc import Iterator
from typing import Any

from cotpress.errors import ConfigError
from cotpress.modeling_config import WITHOUT_TAGS

_AT_LEAST_ONE = (
    "num_traces", "num_problems", "limit", "max_new_tokens", "max_thinking_tokens", "tokens_per_batch",
    "generation_tokens", "num_threads", "context_tokens", "epochs", "sequences_per_step", "max_tokens", "lora_rank",
    "lora_alpha", "samples", "validations_per_run", "validation_max_new_tokens",
)  # fmt: skip
_AT_LEAST_ZERO = (
    "checkpoint_every_s", "redundancy", "seed", "weight_decay", "max_grad_norm",
    "validation_problems", "table_rows", "max_artifact_mb", "temperature", "learning_rate",
)  # fmt: skip
_RANGES = {  # smallest allowed, largest allowed, and how that is said
    "warmup_fraction": (0.0, 1.0, "a number in [0, 1]"),
    "beta1": (0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)"),
    "beta2": (0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)"),
    "lora_dropout": (0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)"),
    "difficulty": (1, 3, "1, 2 or 3"),
}
_PLACES = ("output_root", "output", "runs")
_LARGEST = 2**63 - 1
"""Whole numbers end up in columns and random generators of 64 bits."""


def check_ranges(values: dict[str, Any]) -> None:
    """Refuse numbers that no stage could use, texts that lack what has to be in them, and places that are no places.

    Args:
        values: A whole configuration as plain values.

    Raises:
        ConfigError: Names the key, what was got and what is allowed.
    """
    for key, value in _leaves(values):
        name = key.rpartition(".")[2]
        if isinstance(value, str):
            _check_text(key, name, value)
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or abs(value) > _LARGEST:
            raise ConfigError(f"{key}: got {value}, allowed: a finite number of at most 2^63 - 1")
        least = 1 if name in _AT_LEAST_ONE else 0 if name in _AT_LEAST_ZERO else None
        if least is not None and value < least:
            kind = "a whole number" if isinstance(value, int) else "a number"
            raise ConfigError(f"{key}: got {value}, allowed: {kind} of at least {least}")
        low, high, allowed = _RANGES.get(name, (value, value, ""))
        if not low <= value <= high:
            raise ConfigError(f"{key}: got {value}, allowed: {allowed}")


def _check_text(key: str, name: str, value: str) -> None:
    if name in _PLACES and "." not in key and (not value.strip() or "\0" in value):
        raise ConfigError(f"{key}: got {value!r}, allowed: a folder. Fix: {key}=DIR")
    if name == "thinking_close" and not value:
        raise ConfigError(f"{key}: got '', allowed: the text that parts thinking and response. Fix: {WITHOUT_TAGS}")
    if name == "prompt" and "{question}" not in value:
        raise ConfigError(f"{key}: got {value!r}, allowed: a text with {{question}} in it")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value.get("method") != "none":  # what trains nothing has no epochs
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    elif not isinstance(value, dict):
        yield key, value
