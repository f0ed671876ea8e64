"""Comparison of two answers: exact and fast for plain numbers, letters and words, by math-verify for the rest."""

import functools
import hashlib
import importlib.metadata
import re
from pathlib import Path

from cotpress.answers.extraction import choice
from cotpress.answers.quantities import MAX_CHARACTERS, normal, read_quantity, same_quantity
from cotpress.answers.verifier import symbolically_equal

MAX_GROUPS = 100
"""Most braces of an answer that is compared symbolically; parsing deeper nesting exceeds the time limit."""
_PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")


def is_equal(gold: str, predicted: str) -> bool:
    """True if a predicted answer means the same as the gold answer.

    A comparison that takes longer than `verifier.TIMEOUT_S` counts as different. Safe in threads and in forked
    processes; no input raises an exception.

    Args:
        gold: The reference answer; it determines how the prediction is read (a number, a choice letter, LaTeX).
        predicted: An answer from `extract_answer`.

    Raises:
        CotpressError: math-verify cannot be started at all, so that no verdict would be valid.
    """
    if max(len(gold), len(predicted)) > MAX_CHARACTERS:
        return gold.strip() == predicted.strip()
    gold, predicted = normal(gold), normal(predicted)
    if not gold or not predicted:
        return False
    if gold == predicted or (gold.casefold() == predicted.casefold() and re.fullmatch(r"[A-Za-z ]{2,}", gold)):
        return True
    if re.fullmatch(r"[A-J]", gold):
        return choice(predicted) == gold
    expected, got = read_quantity(gold), read_quantity(predicted)
    if expected is not None and got is not None:
        return same_quantity(expected, got)
    if expected is not None and not re.search(r"[\d\\]", predicted):
        return False
    if predicted.count("{") > MAX_GROUPS:
        return False
    return symbolically_equal(gold, predicted)


@functools.cache
def checker_fingerprint(*more: Path) -> str:
    """16 hex digits over the code that extracts and compares answers, and over the versions of its packages.

    Stored verdicts of another fingerprint are not reused. The hash covers the code itself, so that no change of a
    verdict is missed; a harmless change costs little, as an answer is judged again in milliseconds.

    Args:
        more: Further source files that affect verdicts.
    """
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), *more]:
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    return digest.hexdigest()[:16]
