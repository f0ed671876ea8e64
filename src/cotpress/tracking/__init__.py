"""Where metrics go while a job runs: always `metrics.csv` in the run directory, Weights & Biases if asked for.

The csv is the record; a tracker service that fails is reported once and never stops the work.

Names are `stage/name` in W&B, and the columns `stage` and `name` of the csv. The stage of another system than the job's
own, e.g. of Original, is `stage_system` in the csv (`sft_original`) and a W&B run of its own.

    reference/ sft/     loss  lr  by optimizer step; sft/val/accuracy  sft/val/tokens
    every stage         seconds  num_rows  dropped/REASON  and the numbers among its own facts
    compress/           num_tokens  num_kept_tokens  actual_ratio  num_exceeded
    evaluate/           see `results.result_metrics`: accuracy  mean_generated_tokens  actual_ratio ...
"""

from cotpress.tracking.base import Job, OfSystem, Table, Tracker
from cotpress.tracking.csv_file import METRICS_FILE, CsvTracker, read_metrics
from cotpress.tracking.opening import open_tracker
from cotpress.tracking.results import track_results

__all__ = [
    "METRICS_FILE", "CsvTracker", "Job", "OfSystem", "Table", "Tracker", "open_tracker", "read_metrics",
    "track_results",
]  # fmt: skip
