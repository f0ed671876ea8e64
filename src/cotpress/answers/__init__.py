"""Final answers: extraction from a solution, comparison with the gold answer, and detection of refusals to answer."""

from cotpress.answers.comparison import is_equal, package_versions
from cotpress.answers.extraction import Extractor, Verdict, declines_to_answer, extract_answer, judge, statement_range

__all__ = [
    "Extractor", "Verdict", "declines_to_answer", "extract_answer", "is_equal", "judge", "package_versions",
    "statement_range",
]  # fmt: skip
