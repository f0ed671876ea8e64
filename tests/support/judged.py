"""Judged answers and rows of results made by hand."""

from collections.abc import Iterable, Sequence

from cotpress.records import Prediction, SystemResult
from cotpress.report.comparison import Comparison


def answer(
    question: int,
    correct: bool,
    tokens: int = 10,
    sample: int = 0,
    finish: str = "stop",
    latency_s: float = 1.0,
    thinking: int | None = None,
    output: str = "",
    closed: bool = True,
) -> Prediction:
    """Make a prediction with this verdict and these counts."""
    return Prediction(
        id=f"q{question}", family="", question="?", answer="1", system="s", ratio=0.5, output=output, predicted="1",
        correct=correct, num_tokens=tokens, num_thinking_tokens=tokens if thinking is None else thinking,
        finish_reason=finish, latency_s=latency_s, sample=sample, closed=closed,
    )  # fmt: skip


def answers(correct: Iterable[Sequence[object]]) -> list[Prediction]:
    """Make one prediction per verdict, from one row of verdicts per question."""
    return [answer(i, bool(c), sample=s) for i, row in enumerate(correct) for s, c in enumerate(row)]


def table_of(
    *rows: SystemResult, confidence: float = 0.95, model: str = "tiny", benchmark: str = "planted"
) -> Comparison:
    """Make a comparison of some rows, without runs on disk."""
    return Comparison(model=model, benchmark=benchmark, confidence=confidence, rows=rows)
