"""What each entry script does: the stage calls in order, then the table.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report

Every call returns an artifact that is computed only if it is not there yet, so a sweep shares whatever its jobs have
in common, and a repeated command goes on where the last one stopped.
"""

import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotpress.artifacts import Artifact, ArtifactStore, plain
from cotpress.checkpoints import examinees
from cotpress.compression.config import ExportFormat
from cotpress.compression.export import export, warn_of_template
from cotpress.compression.stage import reached_ratio
from cotpress.config import CompressConfig, EvaluateConfig, PipelineConfig, ReportConfig, TrainConfig
from cotpress.data.stage import problems
from cotpress.disk import require_writable
from cotpress.evaluation.baselines import Shortening, shortening
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.evaluation.reference import token_counter
from cotpress.flow import Compression, Flow
from cotpress.generation.backends import KeptBackend
from cotpress.modeling.loading import use_determinism, use_threads
from cotpress.progress import duration
from cotpress.records import CompressedTrace, Prediction, SystemResult
from cotpress.report.results import PREDICTIONS_FILE, RunResults, StageRecord, write_results
from cotpress.report.stage import report_collection, report_run
from cotpress.report.sweep import show_collection, show_run
from cotpress.runs import row_settings, run_directory, run_name
from cotpress.scoring.config import Shard
from cotpress.sweep_files import sweep_name
from cotpress.systems import BASE, ORIGINAL, Examinee, at_ratios, examine, measure, student_name
from cotpress.tables import read_records, write_records
from cotpress.tracking import Job, open_tracker, track_results

log = logging.getLogger(__name__)

_loaded = KeptBackend()
"""The jobs of `evaluate.py -m` run one after the other in one process: the same weights are loaded once."""


def train(config: TrainConfig, folder: Path) -> tuple[float | None, Path]:
    """`train.py`: the whole flow; returns the accuracy of the scorer's student and the run directory."""
    run_dir = run_directory(config)
    count = token_counter(config.evaluation.reference_tokenizer)  # before hours of work, so that it cannot fail after
    job = _job(config, run_dir, folder, student_name(config), config.data.name)
    with open_tracker(config.tracker, job) as tracker:
        flow = Flow(config, tracker)
        flow.find_problems()
        baselines = [e for b in config.evaluation.baselines for e in _baseline(b, config, flow)]
        systems = flow.examined([*baselines, *_compressed(config, flow)])
        rows, predictions = measure(systems, config.evaluation, count)
        track_results(tracker, rows, predictions)
    _finish(run_dir, config, rows, predictions, flow.artifacts)
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


def _job(config: PipelineConfig | EvaluateConfig, run_dir: Path, folder: Path, system: str, data: str) -> Job:
    """What the tracker is told: `system` is the job's own, `data` what it is trained on or asked."""
    return Job(
        run_dir=run_dir,
        name=run_name(config),
        system=system,
        tags=(config.model.name, data),
        ratio=config.ratio,
        sweep=sweep_name(folder),
        config=plain(config),
        output_root=Path(config.output_root),
    )


def _finish(
    run_dir: Path,
    config: TrainConfig | EvaluateConfig,
    rows: list[SystemResult],
    predictions: list[Prediction],
    artifacts: Mapping[str, Artifact],
) -> None:
    """Leave everything in the run directory that a user opens, and end with the table."""
    write_records(run_dir / PREDICTIONS_FILE, predictions, Prediction)
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
        settings=row_settings(config),
    )
    write_results(run_dir, results)
    report_run(run_dir)
    fresh = sum(s.seconds for s in stages if s.fresh)
    found = sum(not s.fresh for s in stages)
    log.info("stages: %d computed in %s, %d found done", len(stages) - found, duration(fresh), found)
    show_run(run_dir)


def _essentials(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    if isinstance(config, EvaluateConfig):
        return {"adapter": config.adapter, "ratio": config.ratio, "evaluation": row_settings(config)["evaluation"]}
    return {
        "scorer": plain(config.scorer),
        "compression": plain(config.compression),
        "data": config.data.name,
        "reference": config.reference.origin,
        "sft": plain(config.sft.tune),
        "evaluation": row_settings(config)["evaluation"],
    }


def compress(config: CompressConfig, folder: Path) -> tuple[None, Path]:
    """`compress.py`: data to compressed training data below `output`; no student is trained.

    With `shard=K/N` it scores that share of the traces, and goes on only if no other share is missing.
    """
    output = Path(config.output)
    require_writable(output, "output")
    job = _job(config, folder, folder, config.scorer.name, config.data.name)
    with open_tracker(config.tracker, job) as tracker:
        flow = Compression(config, tracker)
        if config.shard is not None and not flow.shard(Shard.parse(config.shard)):
            sys.stdout.write(f"shard {config.shard} is scored; whoever scores the last one compresses\n")
            return None, output
        compressed = flow.compressed()
    rows = read_records(compressed.file("compressed.parquet"), CompressedTrace)
    if config.export is not ExportFormat.parquet:
        warn_of_template(rows[0], config.model.chat, flow.tokenizer)
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
    use_determinism(config.trainer)
    count = token_counter(config.evaluation.reference_tokenizer)
    store, artifacts = ArtifactStore(Path(config.output_root)), dict[str, Artifact]()
    artifacts["benchmark"] = asked = problems(config.benchmark, store)
    systems = examine(examinees(config), config, problems=asked, store=store, artifacts=artifacts, opened=_loaded)
    rows, predictions = measure(systems, config.evaluation, count)
    job = _job(config, run_dir, folder, systems[-1].name, config.benchmark.title)
    with open_tracker(config.tracker, job) as tracker:
        track_results(tracker, rows, predictions)
    _finish(run_dir, config, rows, predictions, artifacts)
    return rows[-1].accuracy.value, run_dir


def report(config: ReportConfig, folder: Path) -> tuple[None, Path]:
    """`report.py`: tables and plots of all finished runs below a folder."""
    output = Path(config.output) if config.output else Path(config.runs)
    show_collection(report_collection(Path(config.runs), output, viewer_traces=config.viewer_traces), output)
    return None, output
