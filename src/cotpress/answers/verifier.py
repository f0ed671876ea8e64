"""Symbolic comparison by math-verify, in a child process that can be killed.

math-verify limits its time with `signal.alarm`, which raises in threads and cannot stop a runaway big-integer power.
Here it runs without its own limits in a child process; a comparison that takes too long ends with the child, and the
pair counts as different. One child serves all threads of a process; a forked or spawned worker starts its own.
"""

import functools
import logging
import os
import signal
import threading
from pathlib import Path

from cotpress.devices import processes
from cotpress.errors import CotpressError

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""Longest symbolic comparison of one pair; after it the pair counts as different."""
STARTUP_S = 120.0
"""Longest wait for the child to import math-verify."""
MEMORY_BYTES = 4 * 2**30
"""Address space of the child."""

_lock = threading.Lock()
_comparer: processes.Child | None = None


@functools.lru_cache(maxsize=4096)
def symbolically_equal(gold: str, predicted: str) -> bool:
    """True if math-verify judges the two equal; False if it takes longer than `TIMEOUT_S`.

    Raises:
        CotpressError: math-verify does not start.
    """
    global _comparer
    with _lock:
        if _comparer is None:
            _comparer = _start()
        try:
            _comparer.send((gold, predicted))
        except OSError:
            verdict = None
        else:
            verdict = _comparer.receive(TIMEOUT_S)
        if verdict is None:
            log.warning("answers '%.60s' and '%.60s' could not be compared: counted as different", gold, predicted)
            _comparer.end(0.0)
            _comparer = None
        return bool(verdict)


def _start() -> processes.Child:
    child = processes.Child(_serve, output=Path(os.devnull), daemon=True)
    if child.receive(STARTUP_S) is not True:
        child.end(0.0)
        raise CotpressError(
            "symbolic answer comparison: the math-verify process did not start. Fix: "
            'pip install "math-verify[antlr4-9-3]", then try: python -c "import math_verify"; a script of your own '
            'has to guard its work with: if __name__ == "__main__"'
        )
    return child


def _forget() -> None:
    """Reset a forked process: a thread of its parent may hold the lock, and the child belongs to the parent."""
    global _lock, _comparer
    _lock, _comparer = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)


def _serve() -> None:
    """Compare pairs in the child until the parent ends."""
    import resource

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _verify("1", "2")  # imports and warms up before the time of a comparison is limited
    processes.send(True)
    while True:
        processes.send(_verify(*processes.receive()))


def _verify(gold: str, predicted: str) -> bool:
    import math_verify

    try:
        sides = [math_verify.parse(rf"\boxed{{{side}}}", parsing_timeout=None) for side in (gold, predicted)]
        return bool(math_verify.verify(sides[0], sides[1], timeout_seconds=None))
    except ImportError:
        raise
    except Exception:  # sympy raises errors of any type on odd input: such a pair is different
        return False
