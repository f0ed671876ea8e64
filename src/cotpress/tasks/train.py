"""The task of `train.py`: the stage calls in order, then the table.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report

Every stage returns an artifact and computes it only if it is missing, so the jobs of a sweep share what they have in
common, and a repeated command resumes where the last one stopped.
"""

from dataclasses import replace
from pathlib import Path

from cotpress.compression.stage import reached_ratio
from cotpress.config import TrainConfig
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.evaluation.protocol import shortening
from cotpress.evaluation.summary import token_counter
from cotpress.records import BASE, ORIGINAL
from cotpress.tasks.flow import Flow
from cotpress.tasks.run_directory import finish, run_directory, tracked_job
from cotpress.tasks.systems import Examinee, at_ratios, examine, shortened, student_system
from cotpress.tracking import open_tracker, track_results
from cotpress.training.config import Overlong


def train(config: TrainConfig, folder: Path) -> tuple[float | None, Path]:
    """Run the whole flow; returns the accuracy of the scorer's student, from 0 to 1, and the run directory."""
    run_dir = run_directory(config)
    count = token_counter(config.evaluation.reference_tokenizer)
    job = tracked_job(config, run_dir, folder, student_system(config).label)
    with open_tracker(config.tracker, job) as tracker:
        flow = Flow(config, tracker)
        rows, predictions = examine(
            examinees(config, flow), config, problems=flow.problems, store=flow.store, stages=flow.stages, count=count
        )
        track_results(tracker, rows, predictions)
    return finish(run_dir, config, rows, predictions, flow.stages)


def examinees(config: TrainConfig, flow: Flow) -> list[Examinee]:
    """Train the students; returns the rows of the table: the baselines, then the scorer's student."""
    return [e for b in config.evaluation.baselines for e in _baseline(b, config, flow)] + _compressed(config, flow)


def _baseline(kind: Baseline, config: TrainConfig, flow: Flow) -> list[Examinee]:
    """Build the row of a baseline, training its student if it has one."""
    match kind:
        case Baseline.base:
            return [Examinee(system=BASE, student=None, actual_ratio=1.0)]
        case Baseline.original:
            return [_original(config, flow)]
        case Baseline.ratio_one:
            return []  # a row of the scorer's own student, see `_compressed`
    change = shortening(kind, config.ratio, config.evaluation.instructions)
    if change is None:
        return []
    return [shortened(change, None if config.evaluation.prompted is Prompted.base else _original(config, flow))]


def _original(config: TrainConfig, flow: Flow) -> Examinee:
    common = config.sft.overlong is Overlong.common  # otherwise it needs no scores
    student = flow.student(ORIGINAL, flow.uncompressed(), [flow.compressed()] if common else [])
    return Examinee(system=ORIGINAL, student=student, actual_ratio=1.0)


def _compressed(config: TrainConfig, flow: Flow) -> list[Examinee]:
    """Train the scorer's student; returns its rows: at the run's ratio, and with a ratio marker at others before it."""
    system, compressed = student_system(config), flow.compressed()
    common = config.sft.overlong is Overlong.common
    student = Examinee(
        system=replace(system, ratio=config.ratio),
        student=flow.student(system, compressed, [flow.uncompressed()] if common else []),
        marker_ratio=config.ratio if config.compression.mixed_ratios else None,
        training_ratio=reached_ratio(compressed, None),
    )
    if config.compression.mixed_ratios and Baseline.ratio_one in config.evaluation.baselines:
        student = replace(student, ratio_one=student.at(1.0))
    rows = at_ratios(student, config.evaluation.ratios)
    return [replace(row, actual_ratio=reached_ratio(compressed, row.marker_ratio)) for row in rows]
