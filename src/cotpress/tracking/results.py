"""The rows of the results table and their predictions, as metrics and tables."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from cotpress.records import Prediction, SystemResult
from cotpress.tracking.base import Table, Tracker

STAGE = "evaluate"
PREDICTION_COLUMNS = (
    "question_id", "sample", "prompt", "generation", "answer", "gold", "correct", "tokens", "thinking_tokens",
    "finish_reason", "ratio",
)  # fmt: skip


def track_results(tracker: Tracker, rows: Sequence[SystemResult], predictions: Sequence[Prediction]) -> None:
    """Log every row with its predictions; the last row is the job's own system.

    Args:
        tracker: Gets `evaluate/...` of each system.
        rows: At least one, in table order.
        predictions: Of all rows.
    """
    for i, row in enumerate(rows):
        again = any(later.system == row.system for later in rows[i + 1 :])  # of two rows of one student, the last
        name = f"{row.system} ratio {row.target_ratio:g}" if again else row.system
        system = "" if i == len(rows) - 1 else name
        identity = f"{row.artifacts.get(STAGE, '')} {name} {row.target_ratio:g}"
        own = [p for p in predictions if (p.system, p.ratio) == (row.system, row.target_ratio)]
        tracker.log(STAGE, result_metrics(row), system=system, once=identity)
        tracker.table(STAGE, "predictions", partial(prediction_table, own), system=system)


def result_metrics(row: SystemResult) -> dict[str, float]:
    """The numbers of a row under stable names; what was not measured is left out.

    accuracy, accuracy_low, accuracy_high, num_questions, mean_generated_tokens, mean_generated_tokens_low,
    mean_generated_tokens_high, target_ratio, actual_ratio, generated_ratio, generated_thinking_ratio,
    accuracy_difference, truncation_rate, seconds_per_sample, training_reduction, inference_reduction, loop_rate,
    unclosed_rate, mean_thinking_tokens, mean_answer_tokens, and pass_at_K for more than one sample per question.
    """
    values: dict[str, Any] = {
        "accuracy": row.accuracy.value,
        "accuracy_low": row.accuracy.low,
        "accuracy_high": row.accuracy.high,
        "num_questions": row.accuracy.n,
        "mean_generated_tokens": row.mean_tokens.value,
        "mean_generated_tokens_low": row.mean_tokens.low,
        "mean_generated_tokens_high": row.mean_tokens.high,
        "accuracy_difference": None if row.accuracy_difference is None else row.accuracy_difference.value,
    }
    names = (
        "target_ratio", "actual_ratio", "generated_ratio", "generated_thinking_ratio", "truncation_rate",
        "seconds_per_sample", "training_reduction", "inference_reduction", "loop_rate", "unclosed_rate",
        "mean_thinking_tokens", "mean_answer_tokens",
    )  # fmt: skip
    values |= {name: getattr(row, name) for name in names}
    if row.num_samples > 1:
        values |= {f"pass_at_{k}": found.value for k, found in enumerate(row.pass_at_k, start=1)}
    return {name: float(value) for name, value in values.items() if value is not None}


def prediction_table(predictions: Sequence[Prediction], limit: int) -> Table:
    """One row per generated solution, of the first `limit`."""
    rows = [
        (
            p.id, p.sample, p.question, p.output, p.predicted, p.answer, p.correct, p.num_tokens, p.num_thinking_tokens,
            p.finish_reason, p.ratio,
        )
        for p in predictions[:limit]
    ]  # fmt: skip
    return Table(columns=PREDICTION_COLUMNS, rows=rows)
