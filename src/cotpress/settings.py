"""Rules for the values of settings: written into the type of a field, checked by one walk over a configuration.

    epochs: Count = 3
    top_p: Annotated[float, interval("(0, 1]")] | None = None

OmegaConf sees only the plain type. Rules over several fields of a class stand in its method `validate(key)`, where
`key` is the place of the object on the command line, e.g. `sft.tune`.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from cotpress.errors import ConfigError, CotpressError, raise_together

_LARGEST = 2**63 - 1  # whole numbers end up in columns and random generators of 64 bits


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that an allowed value meets, and the `allowed` values in words."""

    holds: Callable[[Any], bool]
    allowed: str


def interval(text: str) -> Rule:
    """A rule for numbers, e.g. `[0, 1)`: a square bracket includes its end, a round one excludes it."""
    low, high = (float(end) for end in text[1:-1].split(","))

    def holds(value: float) -> bool:
        above = value >= low if text[0] == "[" else value > low
        return above and (value <= high if text[-1] == "]" else value < high)

    return Rule(holds, f"a number in {text}")


Count = Annotated[int, Rule(lambda number: number >= 1, "a whole number of at least 1")]
Natural = Annotated[int, Rule(lambda number: number >= 0, "a whole number of at least 0")]
Amount = Annotated[float, Rule(lambda number: number >= 0, "a number of at least 0")]
Positive = Annotated[float, Rule(lambda number: number > 0, "a number above 0")]
RATIO_RANGE = "a number in (0, 1], the fraction of the thinking tokens KEPT"
Ratio = Annotated[float, Rule(interval("(0, 1]").holds, RATIO_RANGE)]
Folder = Annotated[str, Rule(lambda text: bool(text.strip()) and "\0" not in text, "the path of a folder")]


def check_settings(settings: Any, key: str = "") -> None:
    """Check every value of a dataclass and those inside: numbers are finite, rules of fields hold, `validate` passes.

    `key` is its place, e.g. `sft.tune`; empty for a whole configuration.

    Raises:
        ConfigError: Names the key, its value and what is allowed; of several values, all of them.
        CotpressError: Another error of a `validate`, if it is the only problem.
    """
    raise_together(list(_problems(settings, None, key)))


def _problems(value: Any, hint: Any, key: str, null: str = "") -> Iterator[CotpressError]:
    if dataclasses.is_dataclass(value):
        yield from _problems_inside(value, key)
    elif value is None:
        return
    elif typing.get_origin(hint) is Annotated:
        kind, *rules = typing.get_args(hint)
        yield from _problems(value, kind, key)
        for rule in rules:
            if not rule.holds(value):
                yield ConfigError(f"{key}: got {value!r}, allowed: {rule.allowed}{null}")
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for kind in typing.get_args(hint):
            yield from _problems(value, kind, key, ", or null")
    elif isinstance(value, list):
        for element in value:
            yield from _problems(element, typing.get_args(hint)[0], key)
    elif isinstance(value, dict):
        for name, element in value.items():
            yield from _problems(element, typing.get_args(hint)[1], f"{key}.{name}")
    elif isinstance(value, float | int) and not abs(value) <= _LARGEST:
        yield ConfigError(f"{key}: got {value}, allowed: a finite number of at most 2^63 - 1")


def _problems_inside(settings: Any, key: str) -> Iterator[CotpressError]:
    """Yield the problems of the fields and, if these have none, that of `validate`, which relies on them."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    found: list[CotpressError] = []
    for field in dataclasses.fields(settings):
        place = f"{key}.{field.name}" if key else field.name
        found += _problems(getattr(settings, field.name), hints[field.name], place)
    yield from found
    if hasattr(settings, "validate") and not found:
        try:
            settings.validate(key)
        except CotpressError as error:
            yield error
