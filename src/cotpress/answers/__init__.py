"""Final answers: extraction from a solution, comparison with the gold answer, and detection of refusals to answer."""

from cotpress.answers.comparison import is_equal, package_versions
from cotpress.answers.extraction import (
    Extractor,
    Verdict,
    announced_answer,
    declines_to_answer,
    extract_answer,
    final_statement,
    judge,
)

__all__ = [
    "Extractor", "Verdict", "announced_answer", "declines_to_answer", "extract_answer", "final_statement", "is_equal",
    "judge", "package_versions",
]  # fmt: skip
