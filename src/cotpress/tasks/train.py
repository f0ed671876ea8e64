"""The task of `train.py`: the stage calls in order, then the table.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report

Every call returns an artifact that is computed only if it is not there yet, so a sweep shares whatever its jobs have
in common, and a repeated command goes on where the last one stopped.
"""

from dataclasses import replace
from pathlib import Path

from cotpress.compression.stage import reached_ratio
from cotpress.config import TrainConfig
from cotpress.evaluation.baselines import Shortening, shortening
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.evaluation.summary import token_counter
from cotpress.tasks.finish import finish, tracked_job
from cotpress.tasks.flow import Flow
from cotpress.tasks.run_directory import run_directory
from cotpress.tasks.systems import BASE, ORIGINAL, Examinee, at_ratios, measure, student_name
from cotpress.tracking import open_tracker, track_results


def train(config: TrainConfig, folder: Path) -> tuple[float | None, Path]:
    """`train.py`: the whole flow; returns the accuracy of the scorer's student and the run directory."""
    run_dir = run_directory(config)
    count = token_counter(config.evaluation.reference_tokenizer)  # before hours of work, so that it cannot fail after
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
    match kind:
        case Baseline.base:
            return [Examinee(name=BASE, student=None, actual_ratio=1.0)]
        case Baseline.original:
            return [Examinee(name=ORIGINAL, student=flow.student(ORIGINAL, flow.uncompressed()), actual_ratio=1.0)]
        case Baseline.ratio_one:
            return []  # it is the scorer's own student, asked below
        case _:
            how = shortening(kind, config.ratio, config.evaluation.instructions)
            return [] if how is None else [_shortened(how, config, flow)]


def _shortened(how: Shortening, config: TrainConfig, flow: Flow) -> Examinee:
    """A baseline without training, on Original or on the untuned model."""
    if config.evaluation.prompted is Prompted.base:
        return Examinee(name=f"{how.name} ({BASE})", student=None, ratio=how.ratio, shortening=how)
    student = flow.student(ORIGINAL, flow.uncompressed())
    return Examinee(name=how.name, student=student, ratio=how.ratio, shortening=how)


def _compressed(config: TrainConfig, flow: Flow) -> list[Examinee]:
    """The scorer's student at the asked ratio, after itself at other ratios if a marker can ask for them."""
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
