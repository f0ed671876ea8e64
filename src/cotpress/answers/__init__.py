"""Final answers: extraction from a solution, comparison with the gold answer, and detection of refusals to answer."""

from cotpress.answers.comparison import checker_fingerprint, is_equal
from cotpress.answers.extraction import Extractor, Verdict, declines_to_answer, extract_answer, final_statement, judge

__all__ = [
    "Extractor", "Verdict", "checker_fingerprint", "declines_to_answer", "extract_answer", "final_statement",
    "is_equal", "judge",
]  # fmt: skip
