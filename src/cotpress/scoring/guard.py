"""Checks around the methods of scorers from outside of the package, whose errors become one message."""

import functools
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from cotpress.errors import ConfigError, CotpressError, ModelError


def guard(name: str, scorer: type) -> None:
    """Let the methods of a class that give scores raise one message for an error of theirs and for wrong scores.

    Raises:
        ConfigError: The class has no method that gives scores.
    """
    from cotpress.scoring.base import TokenScorer

    if issubclass(scorer, TokenScorer) and not any(
        getattr(scorer, method) is not getattr(TokenScorer, method) for method in ("token_values", "values", "score")
    ):
        raise ConfigError(
            f"register_scorer('{name}'): {scorer.__name__} lacks token_values. Fix: def token_values(self, trace), "
            "which returns one float per token of self.tokens(trace)"
        )
    if scorer.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return  # one of this package under a further name, which its own name shares
    for method in ("token_values", "score"):
        own = vars(scorer).get(method)
        if callable(own) and (method == "token_values" or not issubclass(scorer, TokenScorer)):
            setattr(scorer, method, _guarded(name, method, own))


def _guarded(name: str, method: str, own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def call(self: Any, trace: Any, *readings: Any) -> Any:
        place = f"scorer={name}: its `{method}`, trace '{trace.id}'"
        try:
            values = own(self, trace, *readings)
        except (CotpressError, MemoryError, RuntimeError):  # of memory, too, after which smaller batches are read
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise ModelError(
                f"{place}: {type(error).__name__}: {error} (line {frame.lineno} of {frame.filename}). Fix: correct the "
                "plugin; the log of the job has the traceback"
            ) from error
        num = len(readings[0].token_ids) if readings else self.num_tokens(trace)
        return _checked(values, num, place)

    return call


def _checked(values: Any, num: int, place: str) -> Any:
    """The scores of `num` tokens as float32 `[num]`."""
    try:
        scores = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        scores = np.empty(0, dtype=np.float32)
    if values is None or scores.shape != (num,):
        got = type(values).__name__ if np.ndim(scores) == 0 or not scores.size else f"numbers of shape {scores.shape}"
        raise ModelError(f"{place}: got {got}. Allowed: {num} numbers, one for each thinking token")
    if wrong := np.flatnonzero(~np.isfinite(scores)).tolist():
        raise ModelError(
            f"{place}: {len(wrong)} of {num} scores are not finite, first {scores[wrong[0]]} at token {wrong[0]}. "
            "Allowed: finite numbers, the higher the more important"
        )
    return scores
