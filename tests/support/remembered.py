"""Results that tests share."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Compute once for equal arguments, which are compared as they are printed: settings have no hash."""
    results: dict[str, Any] = {}

    @functools.wraps(function)
    def remember(*args: P.args, **kwargs: P.kwargs) -> R:
        key = repr((args, sorted(kwargs.items())))
        if key not in results:
            results[key] = function(*args, **kwargs)
        return results[key]  # type: ignore[no-any-return]

    return remember
