"""Tracking of a running job: always `metrics.csv` in the run directory, also Weights & Biases with `tracker=wandb`.

A failure of the W&B service is logged once and never stops the job.

Names are `stage/name` in W&B, and the columns `stage` and `name` of the csv. A stage of another system than the job's
own, e.g. of Original, is `stage_system` in the csv (`sft_original`) and a separate W&B run.

    reference/ sft/     loss  lr  by optimizer step; sft/val/accuracy  sft/val/tokens
    every stage         seconds  num_rows  dropped/REASON  and the numbers among its facts
    compress/           num_tokens  num_kept_tokens  actual_ratio  num_exceeded
    evaluate/           see `tracker.result_metrics`: accuracy  mean_generated_tokens  actual_ratio ...
"""

from cotpress.tracking.tracker import (
    METRICS_FILE,
    Job,
    Table,
    Tracker,
    open_tracker,
    read_metrics,
    result_metrics,
    track_results,
)

__all__ = [
    "METRICS_FILE", "Job", "Table", "Tracker", "open_tracker", "read_metrics", "result_metrics", "track_results",
]  # fmt: skip
