"""Comparison of formulas by math-verify and of units by pint, in a child process that can be killed.

Neither library can stop a runaway power (math-verify's limit, `signal.alarm`, raises in threads), so a comparison that
takes too long ends with the child. One child serves all threads of a process; a forked worker starts its own.
"""

import functools
import itertools
import logging
import os
import re
import signal
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

from cotpress.devices import processes
from cotpress.errors import CotpressError

log = logging.getLogger(__name__)
TIMEOUT_S, STARTUP_S, MEMORY_BYTES = 5.0, 120.0, 4 * 2**30
"""Limits of the child: one comparison, the import of math-verify, address space."""
UNITS = ("dollar = [currency] = USD = buck", "cent = dollar / 100 = penny = pennies", "kmh = km / h = kmph")
"""Units that pint lacks."""

_lock = threading.Lock()
_child: processes.Child | None = None


@functools.lru_cache(maxsize=4096)
def _answered(*question: Any) -> Any:
    global _child
    with _lock:
        if _child is None:
            _child = processes.Child(_serve, output=Path(os.devnull), daemon=True)
            if _child.receive(STARTUP_S) is None:
                _child.end(0.0)
                _child = None
                raise CotpressError(
                    'answer comparison: math-verify did not start. Fix: pip install "math-verify[antlr4-9-3]" pint; '
                    'a script of your own has to guard its work with: if __name__ == "__main__"'
                )
        try:
            _child.send(question)
            reply = _child.receive(TIMEOUT_S)
        except OSError:
            reply = None
        if reply is None:
            log.warning("answers '%.60s' and '%.60s' could not be compared: counted as different", *question[:2])
            _child.end(0.0)
            _child = None
        return reply and reply[0]


def symbolically_equal(gold: str, predicted: str) -> bool:
    """True if two LaTeX formulas are equal: numbers by their relative difference, all else by math-verify."""
    return bool(_answered(gold, predicted))


def in_unit(unit: str, other: str, value: Fraction) -> Fraction | None:
    """A value of the second unit in the first one; None if they differ in kind. A missing unit agrees with any."""
    result: Fraction | None = value if not unit or not other or unit == other else _answered(unit, other, value)
    return result


def _forget() -> None:
    """Reset a forked process: a thread of its parent may hold the lock, and the child belongs to the parent."""
    global _lock, _child
    _lock, _child = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)


def _serve() -> None:
    import resource

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    reply: tuple[Any] = (_equal("1", "2"),)  # imports and warms up before the time of a comparison is limited
    while True:
        processes.send(reply)
        question = processes.receive()
        try:
            reply = (_equal(*question) if len(question) == 2 else _in_unit(*question),)
        except Exception:  # the libraries raise errors of any type on odd input: such a pair is different
            reply = (None,)


def _equal(gold: str, predicted: str) -> bool:
    import math_verify
    import sympy
    from latex2sympy2_extended import NormalizationConfig

    rules = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="last")  # no units
    latex = [math_verify.LatexExtractionConfig(normalization_config=rules, boxed_match_priority=0)]
    parse = functools.partial(math_verify.parse, fallback_mode="no_fallback", parsing_timeout=None)
    sides = [parse(rf"\boxed{{{side}}}", latex) for side in (gold, predicted)]
    numbers = [side[0].doit() for side in sides if side and isinstance(side[0], sympy.Expr) and side[0].is_number]
    if len(numbers) == 2 and all(number.is_finite for number in numbers):
        a, b = (sympy.N(number, 50) for number in numbers)
        if a.is_number and b.is_number and abs(a) + abs(b) > 0:
            tolerance = 1e-6 if any(number.has(sympy.Float) for number in numbers) else 1e-30
            return bool(abs(a - b) <= tolerance * max(abs(a), abs(b)))
    return bool(math_verify.verify(*sides, allow_set_relation_comp=True, timeout_seconds=None))


@functools.cache
def _registry() -> Any:
    import pint

    registry = pint.UnitRegistry(on_redefinition="ignore", non_int_type=Fraction)
    for definition in UNITS:
        registry.define(definition)
    return registry


def _in_unit(unit: str, other: str, value: Fraction) -> Fraction | None:
    """Convert units that pint knows; of counted things (`apples`, `red apples`) one may say more than the other."""
    from pint import UndefinedUnitError

    for a, b in itertools.product({unit: 0, unit.lower(): 0}, {other: 0, other.lower(): 0}):
        try:
            return Fraction(_registry().Quantity(value, b).to(a).magnitude)
        except UndefinedUnitError:
            pass
    nouns = [{noun.rstrip("seiy") for noun in re.findall(r"[^\W\d_]+", name.lower())} for name in (unit, other)]
    return value if nouns[0] <= nouns[1] or nouns[1] <= nouns[0] else None
