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
from cotpress.evaluation.protocol import Shortening, shortening
from cotpress.evaluation.summary import token_counter
from cotpress.tasks.finish import finish, tracked_job
from cotpress.tasks.flow import Flow
from cotpress.tasks.run_directory import run_directory
from cotpress.tasks.systems import BASE, ORIGINAL, Examinee, at_ratios, measure, student_name
from cotpress.tracking import open_tracker, track_results


def train(config: TrainConfig, folder: Path) -> tuple[float | None, Path]:
    """Run the whole flow; returns the accuracy of the scorer's student, from 0 to 1, and the run directory."""
    run_dir = run_directory(config)
    count = token_counter(config.evaluation.reference_tokenizer)  # a missing tokenizer is an error before any work
    job = tracked_job(config, run_dir, folder, student_name(config), config.data.name)
    with open_tracker(config.tracker, job) as tracker:
        flow = Flow(config, tracker)
        flow.find_problems()
        baselines = [e for b in config.evaluation.baselines for e in _baseline(b, config, flow)]
        systems = flow.examined([*baselines, *_compressed(config, flow)])
        rows, predictions = measure(systems, config.evaluation, count)
        track_results(tracker, rows, predictions)
    finish(run_dir, config, rows, predictions, flow.artifacts)
    return rows[-1].accuracy.value, run_dir


def _baseline(kind: Baseline, config: TrainConfig, flow: Flow) -> list[Examinee]:
    """Build the row of a baseline, training its student if it has one."""
    match kind:
        case Baseline.base:
            return [Examinee(name=BASE, student=None, actual_ratio=1.0)]
        case Baseline.original:
            return [Examinee(name=ORIGINAL, student=flow.student(ORIGINAL, flow.uncompressed()), actual_ratio=1.0)]
        case Baseline.ratio_one:
            return []  # a row of the scorer's own student, see `_compressed`
        case _:
            change = shortening(kind, config.ratio, config.evaluation.instructions)
            return [] if change is None else [_shortened(change, config, flow)]


def _shortened(change: Shortening, config: TrainConfig, flow: Flow) -> Examinee:
    """Build the row of a baseline without training, on Original or on the untuned model."""
    if config.evaluation.prompted is Prompted.base:
        return Examinee(name=f"{change.name} ({BASE})", student=None, ratio=change.ratio, shortening=change)
    student = flow.student(ORIGINAL, flow.uncompressed())
    return Examinee(name=change.name, student=student, ratio=change.ratio, shortening=change)


def _compressed(config: TrainConfig, flow: Flow) -> list[Examinee]:
    """Train the scorer's student; returns its rows: at the run's ratio, and with a ratio marker at others before it."""
    name, compressed = student_name(config), flow.compressed()
    student = Examinee(
        name=name,
        student=flow.student(name, compressed),
        ratio=config.ratio,
        marker_ratio=config.ratio if config.compression.mixed_ratios else None,
        training_ratio=reached_ratio(compressed, None),
    )
    if config.compression.mixed_ratios and Baseline.ratio_one in config.evaluation.baselines:
        student = replace(student, ratio_one=replace(student, ratio=1.0, marker_ratio=1.0))
    rows = at_ratios(student, config.evaluation.ratios)
    return [replace(row, actual_ratio=reached_ratio(compressed, row.marker_ratio)) for row in rows]
