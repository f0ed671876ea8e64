"""A job's description for the tracker; at its end the result files, the report and the table on the terminal."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotpress.config import EvaluateConfig, FidelityConfig, PipelineConfig, TrainConfig
from cotpress.progress import duration
from cotpress.records import PREDICTIONS_FILE, Prediction, SystemResult
from cotpress.report.results import RunResults, StageRecord, write_results
from cotpress.report.stage import report_run, show_run
from cotpress.store.artifacts import plain
from cotpress.store.sweeps import sweep_name
from cotpress.store.tables import write_records
from cotpress.tasks.run_directory import row_settings, run_name
from cotpress.tracking import Job

log = logging.getLogger(__name__)


def tracked_job(
    config: PipelineConfig | EvaluateConfig | FidelityConfig, run_dir: Path, folder: Path, system: str, data: str
) -> Job:
    """Describe the job for the tracker: `system` is the label of its system, `data` its training data or benchmark."""
    return Job(
        run_dir=run_dir,
        name=run_name(config),
        system=system,
        tags=(config.model.name, data),
        ratio=None if isinstance(config, FidelityConfig) else config.ratio,
        sweep=sweep_name(folder),
        config=plain(config),
        output_root=Path(config.output_root),
    )


def finish(
    run_dir: Path,
    config: TrainConfig | EvaluateConfig,
    rows: list[SystemResult],
    predictions: list[Prediction],
    stages: Mapping[str, StageRecord],
) -> tuple[float, Path]:
    """Write the files of the run directory and show the table; return the accuracy of the last row and the folder."""
    write_records(run_dir / PREDICTIONS_FILE, predictions, Prediction)
    settings = row_settings(config)
    if isinstance(config, EvaluateConfig):
        essentials: dict[str, Any] = {"adapter": config.adapter, "ratio": config.ratio}
    else:
        essentials = {
            "scorer": plain(config.scorer),
            "compression": plain(config.compression),
            "data": config.data.name,
            "reference": config.reference.origin,
            "sft": plain(config.sft.tune),
        }
    results = RunResults(
        name=run_name(config),
        model=config.model.name,
        benchmark=config.benchmark.title,
        seed=config.seed,
        confidence=config.evaluation.confidence,
        rows=tuple(rows),
        stages=tuple(stages.values()),
        essentials={**essentials, "evaluation": settings["evaluation"]},
        settings=settings,
    )
    write_results(run_dir, results)
    report_run(run_dir)
    fresh = [s.seconds for s in stages.values() if s.fresh]
    reused = len(stages) - len(fresh)
    log.info("stages: %d computed in %s, %d found done", len(fresh), duration(sum(fresh)), reused)
    show_run(run_dir)
    return rows[-1].accuracy.value, run_dir
