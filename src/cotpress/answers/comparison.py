"""Whether two answers mean the same: exactly and cheaply where both are plain, by math-verify where they are not.

Which checker gave a verdict: verdicts of another one must not be taken for its own.
"""

import functools
import hashlib
import importlib.metadata
import re
from pathlib import Path

from cotpress.answers.extraction import choice
from cotpress.answers.quantities import MAX_CHARACTERS, normal, read_quantity, same_quantity
from cotpress.answers.verifier import symbolically_equal

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


MAX_GROUPS = 100
"""Most braces of an answer that is compared symbolically: parsing deeply nested ones takes longer than the limit."""


def is_equal(gold: str, predicted: str) -> bool:
    """Whether a predicted answer means the same as the gold answer.

    Never raises for any input; a comparison that takes longer than `verifier.TIMEOUT_S` counts as different. Safe in
    threads and in forked processes.

    Args:
        gold: The reference answer; it decides how the prediction is read (a number, a choice letter, LaTeX).
        predicted: What `extract_answer` found.

    Raises:
        CotpressError: math-verify cannot be started at all, so no verdict would mean anything.
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
