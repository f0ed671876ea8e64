"""Final answers: extraction from a solution, comparison with the gold answer, and detection of refusals to answer.

Used to filter self-written traces, by the validation callback and by evaluation.
"""

from cotpress.answers.comparison import checker_fingerprint, is_equal
from cotpress.answers.extraction import Extractor, extract_answer, statement_range
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
