"""Final answers: where a solution states its own, whether two mean the same, and whether it declines to give one.

One definition for filtering self-written traces, for the validation callback and for evaluation.
"""

from cotpress.answers.comparison import checker_fingerprint, is_equal
from cotpress.answers.extraction import Extractor, extract_answer
from cotpress.answers.statements import statement_range
from cotpress.answers.verdict import Verdict, declines_to_answer, judge

__all__ = [
    "Extractor",
    "Verdict",
    "checker_fingerprint",
    "declines_to_answer",
    "extract_answer",
    "is_equal",
    "judge",
    "statement_range",
]
