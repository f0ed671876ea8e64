"""Places in a row of nested values, as text: `problem`, `messages[-1].content`.

- `a.b` is the key `b` of the object in column `a`; a column whose name holds the sign is found by its whole name.
- `a[0]`, `a[-1]` is an element of a list, counted from its start or end.
- `a[key=x]` is the first object of a list whose `key` is the text `x`.
- `a+b` joins the texts of several places by a line break; those without text are left out.
- `a|b` is the first of several places that holds a value other than null.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from typing import Any, Final

_STEP = re.compile(r"\.?(?P<key>[^.\[\]|]+)|\[(?P<index>-?\d+)\]|\[(?P<name>[^=\[\]]+)=(?P<value>[^\[\]]*)\]")


class _Missing(Enum):
    missing = "missing"


MISSING: Final = _Missing.missing
"""Value of a place that a row does not have."""


@dataclass(frozen=True)
class Place:
    """A place in a row, or several in the order of preference.

    Attributes:
        text: The place as it is written; see the module.
    """

    text: str

    def value(self, row: Mapping[str, Any]) -> Any:
        """The value in a row; None if it is null, `MISSING` if there is no such place."""
        values = [_value(row, text) for text in self.alternatives]
        known = [value for value in values if value is not MISSING]
        return next((value for value in known if value is not None), None if known else MISSING)

    def columns(self, row: Mapping[str, Any]) -> list[str]:
        """Names of the columns that the value of a row comes from; none without a value."""
        text = next((t for t in self.alternatives if _value(row, t) not in (MISSING, None)), "")
        parts = [text] if text in row or not text else text.split("+")
        known = [part for part in parts if _value(row, part) not in (MISSING, None)]
        return [part if part in row else str(_steps(part)[0]) for part in known]

    @cached_property
    def alternatives(self) -> tuple[str, ...]:
        """The places without `|`."""
        return tuple(part.strip() for part in self.text.split("|"))


def is_place(text: str) -> bool:
    """True for a text that can name a place."""
    return all(_steps(part.strip()) for part in re.split(r"[|+]", text))


@cache
def _steps(text: str) -> tuple[str | int | tuple[str, str], ...]:
    """Keys, indices and conditions of a place; empty if the text is none."""
    steps: list[str | int | tuple[str, str]] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None or (at == 0) is step[0].startswith((".", "[")):
            return ()
        if step["key"] is not None:
            steps.append(step["key"])
        else:
            steps.append(int(step["index"]) if step["index"] is not None else (step["name"], step["value"]))
        at = step.end()
    return tuple(steps)


def _value(row: Mapping[str, Any], text: str) -> Any:
    if text in row:
        return row[text]
    if "+" in text:
        parts = [part for name in text.split("+") if (part := _value(row, name.strip())) is not MISSING]
        texts = [part for part in parts if isinstance(part, str) and part.strip()]
        return "\n".join(texts) if texts else None if parts else MISSING
    value: Any = row
    for step in _steps(text) or (text,):
        match step, value:
            case str(), Mapping():
                value = value.get(step, MISSING)
            case int(), list() if -len(value) <= step < len(value):
                value = value[step]
            case (key, wanted), list():
                chosen = (part for part in value if isinstance(part, Mapping) and part.get(key) == wanted)
                value = next(chosen, MISSING)
            case _:
                return MISSING
        if value is MISSING:
            return MISSING
    return value
