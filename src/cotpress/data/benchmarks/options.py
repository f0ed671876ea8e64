"""Options of a multiple-choice question: their order and their letters.

The order is a property of seed and question: it does not depend on other questions, their order or how many there are.
"""

import hashlib
from collections.abc import Sequence

from cotpress.errors import ConfigError

LETTERS = "ABCDEFGHIJ"


def shuffled(num_options: int, seed: int, question_id: str) -> list[int]:
    """A permutation of `range(num_options)`, uniform over questions and equal on every machine."""
    return sorted(range(num_options), key=lambda i: hashlib.sha256(f"{seed}/{question_id}/{i}".encode()).digest())


def lettered(options: Sequence[str]) -> str:
    """The options as lines `(A) ...`, `(B) ...`.

    Raises:
        ConfigError: There are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise ConfigError(f"benchmark.wrong_columns: got {len(options) - 1}, allowed: at most {len(LETTERS) - 1}")
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
