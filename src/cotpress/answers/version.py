"""Which checker gave a verdict: verdicts of another one must not be taken for its own."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path

_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")


@functools.cache
def checker_fingerprint(*more: Path) -> str:
    """16 hex digits over the code that extracts and compares answers, and over the versions of what it builds on.

    The code itself and no number that somebody has to raise: an answer is judged again in milliseconds, so a harmless
    change costs next to nothing and no change of a verdict is ever missed.

    Args:
        more: Further source files that have a say in verdicts.
    """
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *more]:
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    return digest.hexdigest()[:16]
