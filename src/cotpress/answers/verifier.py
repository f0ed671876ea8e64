"""Symbolic comparison by math-verify, in a child process that can be killed.

math-verify limits its time with `signal.alarm`, which raises in threads and cannot stop a huge integer power. Here it
runs without its own limits in a child process; a pair that takes too long counts as different, and the child is killed.
One child serves all threads of a process; a forked or spawned worker starts its own.
"""

import atexit
import functools
import json
import logging
import os
import select
import subprocess
import sys
import threading

from cotpress.errors import CotpressError

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""Longest symbolic comparison of one pair; after it the pair counts as different."""
STARTUP_S = 120.0
"""Longest wait for the comparing process to import math-verify."""
MEMORY_BYTES = 4 * 2**30
"""Address space of the comparing process."""


class _Comparer:
    """A child process that runs math-verify, one pair at a time."""

    def __init__(self) -> None:
        start = f"import sys; sys.path[:] = {sys.path!r}; from cotpress.answers.verifier import _serve; _serve()"
        self.owner = os.getpid()
        # A session of its own: Ctrl-C reaches only the parent, whose end closes the pipe and so ends the child.
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own text
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True,
        )  # fmt: skip
        if self._reply(STARTUP_S) != b"ready\n":
            self.close()
            raise CotpressError(
                "symbolic answer comparison: the math-verify process did not start. "
                'Fix: pip install "math-verify[antlr4-9-3]", then try: python -c "import math_verify"'
            )

    def compare(self, gold: str, predicted: str) -> bool | None:
        """The verdict; None if there was none in time, in which case the process must be closed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([gold, predicted]).encode() + b"\n")
        except OSError:
            return None
        return {b"1\n": True, b"0\n": False}.get(self._reply(TIMEOUT_S))

    def _reply(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return os.read(self._process.stdout.fileno(), 64) if ready else b""

    def close(self) -> None:
        """End the process and free its pipes."""
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


_lock = threading.Lock()
_comparer: _Comparer | None = None


@functools.lru_cache(maxsize=4096)
def symbolically_equal(gold: str, predicted: str) -> bool:
    """True if math-verify finds the two equal; False if it takes longer than `TIMEOUT_S`.

    Raises:
        CotpressError: math-verify cannot be started at all, so that no verdict would be valid.
    """
    global _comparer
    with _lock:
        if _comparer is None:
            _comparer = _Comparer()
        verdict = _comparer.compare(gold, predicted)
        if verdict is None:
            log.warning("answers '%.60s' and '%.60s' could not be compared: counted as different", gold, predicted)
            _stop()
        return bool(verdict)


def _forget() -> None:
    """Reset a forked worker: its copy of the lock may be held, and the child belongs to the parent."""
    global _lock, _comparer
    _lock = threading.Lock()
    if _comparer is not None:
        _comparer.close()
        _comparer = None


os.register_at_fork(after_in_child=_forget)


@atexit.register
def _stop() -> None:
    global _comparer
    if _comparer is not None:
        _comparer.close()
        _comparer = None


def _serve() -> None:
    """Run the child process: one JSON pair per line in, `1` or `0` per line out, until the parent closes the pipe."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _verify("1", "2")  # import and first use take longer than the time limit
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        gold, predicted = json.loads(line)
        sys.stdout.write("1\n" if _verify(gold, predicted) else "0\n")
        sys.stdout.flush()


def _verify(gold: str, predicted: str) -> bool:
    import math_verify

    try:
        sides = [math_verify.parse(rf"\boxed{{{side}}}", parsing_timeout=None) for side in (gold, predicted)]
        return bool(math_verify.verify(sides[0], sides[1], timeout_seconds=None))
    except ImportError:
        raise
    except Exception:  # sympy raises many types on odd input; such a pair counts as different
        return False
