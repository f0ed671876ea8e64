"""Options of a multiple-choice question: their order and their letters.

The order is a property of seed and question: it does not depend on other questions, their order or how many there are.
"""

import hashlib
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"


def shuffled(num_options: int, seed: int, question_id: str) -> list[int]:
    """A permutation of `range(num_options)`, uniform over questions and equal on every machine."""
    return sorted(range(num_options), key=lambda i: hashlib.sha256(f"{seed}/{question_id}/{i}".encode()).digest())


def lettered(options: Sequence[str]) -> str:
    """The options as lines `(A) ...`, `(B) ...`."""
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
