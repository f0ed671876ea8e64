"""What each entry script does: the stage calls in order, then the table.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report

Every call returns an artifact that is computed only if it is not there yet, so a sweep shares whatever its jobs have
in common, and a repeated command goes on where the last one stopped.
"""

import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotpress.artifacts import Artifact, plain
from cotpress.checkpoints import Checkpoint
from cotpress.compression.export import export
from cotpress.config import CompressConfig, EvaluateConfig, ReportConfig, TrainConfig
from cotpress.evaluation.baselines import Shortening, shortening
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.evaluation.reference import token_counter
from cotpress.evaluation.stage import PREDICTIONS
from cotpress.flow import Compression, Flow
from cotpress.modeling.loading import use_threads
from cotpress.progress import duration
from cotpress.records import CompressedTrace, Prediction, SystemResult
from cotpress.report.published import published_numbers
from cotpress.report.results import RunResults, StageRecord, write_results
from cotpress.report.stage import report_collection, report_run
from cotpress.report.table import show
from cotpress.runs import run_directory, run_name
from cotpress.systems import BASE, ORIGINAL, System, measure, with_ratio_one
from cotpress.tables import read_records, write_records
from cotpress.tracking import Tracker, open_tracker

log = logging.getLogger(__name__)


def train(config: TrainConfig, folder: Path) -> tuple[float | None, Path]:
    """`train.py`: the whole flow; returns the accuracy of the scorer's student and the run directory."""
    run_dir = run_directory(config)
    count = token_counter(config.evaluation.reference_tokenizer)  # before hours of work, so that it cannot fail after
    tags = [config.scorer.name, f"ratio={config.ratio:g}", config.model.name, config.data.name]
    with open_tracker(
        config.tracker,
        run_dir,
        run_name=run_name(config),
        group=folder.parent.name if folder.name.isdigit() else None,
        tags=tags,
        resolved_config=plain(config),
    ) as tracker:
        flow = Flow(config, tracker)
        systems = [s for b in config.evaluation.baselines for s in _baseline(b, config, flow)]
        systems += _compressed(config, flow)
        rows, predictions = measure(systems, config.evaluation, count)
        _track(tracker, rows)
    _finish(run_dir, config, rows, predictions, flow.artifacts)
    return rows[-1].accuracy.value, run_dir


def _baseline(kind: Baseline, config: TrainConfig, flow: Flow) -> list[System]:
    match kind:
        case Baseline.base:
            return [System(name=BASE, ratio=1.0, actual_ratio=1.0, answers=flow.answers(BASE, None))]
        case Baseline.original:
            student = flow.student(ORIGINAL, flow.uncompressed())
            answers = flow.answers(ORIGINAL, student)
            return [System(name=ORIGINAL, ratio=1.0, actual_ratio=1.0, answers=answers, student=student)]
        case Baseline.ratio_one:
            return []  # it is the scorer's own student, asked below
        case _:
            how = shortening(kind, config.ratio, config.evaluation.instructions)
            return [] if how is None else [_shortened(how, config, flow)]


def _shortened(how: Shortening, config: TrainConfig, flow: Flow) -> System:
    """A baseline without training, on Original or on the untuned model."""
    if config.evaluation.prompted is Prompted.base:
        name, student = f"{how.name} ({BASE})", None
    else:
        name, student = how.name, flow.student(ORIGINAL, flow.uncompressed())
    answers = flow.answers(name, student, ratio=how.ratio, shortening=how)
    return System(name=name, ratio=how.ratio, actual_ratio=None, answers=answers, student=student)


def _compressed(config: TrainConfig, flow: Flow) -> list[System]:
    """The scorer's student at the asked ratio, after itself at ratio 1 if that was asked for and it has a marker."""
    name, mixed = config.scorer.name, bool(config.compression.mixed_ratios)
    compressed = flow.compressed()
    student = flow.student(name, compressed)
    marker = config.ratio if mixed else None
    one = None
    if mixed and Baseline.ratio_one in config.evaluation.baselines:
        one = flow.answers(name, student, ratio=1.0, marker_ratio=1.0)
    answers = flow.answers(name, student, ratio=config.ratio, marker_ratio=marker)
    found = System(
        name=name,
        ratio=config.ratio,
        actual_ratio=float(compressed.facts["actual_ratio"]),
        answers=answers,
        student=student,
        ratio_one=one,
    )
    return with_ratio_one(found)


def _track(tracker: Tracker, rows: list[SystemResult]) -> None:
    """Send accuracy and tokens of every row to the tracker; of two rows of one student, the last has its name."""
    for i, row in enumerate(rows):
        again = any(later.system == row.system for later in rows[i + 1 :])
        name = f"{row.system} ratio {row.target_ratio:g}" if again else row.system
        tracker.log("evaluate", {f"{name}/accuracy": row.accuracy.value, f"{name}/tokens": row.mean_tokens.value})


def _finish(
    run_dir: Path,
    config: TrainConfig | EvaluateConfig,
    rows: list[SystemResult],
    predictions: list[Prediction],
    artifacts: Mapping[str, Artifact],
) -> None:
    """Leave everything in the run directory that a user opens, and end with the table."""
    write_records(run_dir / PREDICTIONS, predictions, Prediction)
    stages = tuple(
        StageRecord(label=label, artifact=a.key, seconds=a.seconds, fresh=a.fresh) for label, a in artifacts.items()
    )
    results = RunResults(
        name=run_name(config),
        model=config.model.name,
        benchmark=config.benchmark.title,
        seed=config.seed,
        confidence=config.evaluation.confidence,
        rows=tuple(rows),
        stages=stages,
        essentials=_essentials(config),
    )
    write_results(run_dir, results)
    report_run(run_dir)
    fresh = sum(s.seconds for s in stages if s.fresh)
    found = sum(not s.fresh for s in stages)
    log.info("stages: %d computed in %s, %d found done", len(stages) - found, duration(fresh), found)
    title = f"{config.model.name} on {config.benchmark.title}, seed {config.seed}"
    published = published_numbers(config.model.name, config.benchmark.title)
    show(rows, title, confidence=config.evaluation.confidence, published=published)
    sys.stdout.write(f"run directory: {run_dir}\n")


def _essentials(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    if isinstance(config, EvaluateConfig):
        return {"adapter": config.adapter, "ratio": config.ratio, "evaluation": plain(config.evaluation)}
    return {
        "scorer": plain(config.scorer),
        "compression": plain(config.compression),
        "data": config.data.name,
        "reference": config.reference.origin,
        "sft": plain(config.sft.tune),
        "evaluation": plain(config.evaluation),
    }


def compress(config: CompressConfig, folder: Path) -> tuple[None, Path]:
    """`compress.py`: data to compressed training data below `output`; no student is trained."""
    output = Path(config.output)
    with open_tracker(
        config.tracker,
        folder,
        run_name=config.name or f"compress-{config.scorer.name}-{config.ratio:g}",
        group=None,
        tags=[config.scorer.name],
        resolved_config=plain(config),
    ) as tracker:
        compressed = Compression(config, tracker).compressed()
    rows = read_records(compressed.file("compressed.parquet"), CompressedTrace)
    path = export(rows, config.export, output, config.model.chat)
    shutil.copyfile(compressed.path / "manifest.json", output / "manifest.json")
    facts = compressed.facts
    sys.stdout.write(
        f"{len(rows)} traces, asked ratio {config.ratio:g}, actual {facts['actual_ratio']:.3f} "
        f"({facts['num_kept_tokens']} of {facts['num_tokens']} tokens): {path}\n"
    )
    return None, output


def evaluate(config: EvaluateConfig, folder: Path) -> tuple[float | None, Path]:
    """`evaluate.py`: a checkpoint or adapter on a benchmark."""
    run_dir = run_directory(config)
    use_threads(config.trainer)
    count = token_counter(config.evaluation.reference_tokenizer)
    checkpoint = Checkpoint(config)
    systems = checkpoint.systems()
    rows, predictions = measure(systems, config.evaluation, count)
    with open_tracker(
        config.tracker,
        run_dir,
        run_name=run_name(config),
        group=None,
        tags=[systems[-1].name],
        resolved_config=plain(config),
    ) as tracker:
        _track(tracker, rows)
    _finish(run_dir, config, rows, predictions, checkpoint.artifacts)
    return rows[-1].accuracy.value, run_dir


def report(config: ReportConfig, folder: Path) -> tuple[None, Path]:
    """`report.py`: tables and plots of all finished runs below a folder."""
    from cotpress.report.collect import compare

    output = Path(config.output) if config.output else Path(config.runs)
    found = report_collection(Path(config.runs), output, viewer_traces=config.viewer_traces)
    for comparison in compare(found.runs):
        show(comparison.rows, comparison.title, confidence=comparison.confidence, published=comparison.published)
    sys.stdout.write(f"report: {output / 'report.html'}\n")
    return None, output
