"""What each entry script does: the stage calls in order, then the table.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report

Every call returns an artifact that is computed only if it is not there yet, so a sweep shares whatever its jobs have
in common, and a repeated command goes on where the last one stopped.
"""

import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotpress.artifacts import Artifact, ArtifactStore, plain
from cotpress.compression.export import export
from cotpress.config import CompressConfig, EvaluateConfig, ReportConfig, TrainConfig
from cotpress.data.stage import problems as load_problems
from cotpress.evaluation.config import Baseline
from cotpress.evaluation.stage import PREDICTIONS
from cotpress.evaluation.stage import evaluate as answer
from cotpress.evaluation.statistics import summarize
from cotpress.flow import Compression, Flow
from cotpress.modeling.loading import use_threads
from cotpress.progress import duration
from cotpress.records import CompressedTrace, Prediction, SystemResult
from cotpress.report.results import RunResults, StageRecord, write_results
from cotpress.report.stage import report_collection, report_run
from cotpress.report.table import show
from cotpress.runs import run_directory, run_name
from cotpress.tables import read_records, write_records
from cotpress.tracking import open_tracker

log = logging.getLogger(__name__)

ORIGINAL, BASE = "Original", "Base"


@dataclass(frozen=True, slots=True, kw_only=True)
class _System:
    """One row of the table before it is counted."""

    name: str
    ratio: float
    actual_ratio: float | None
    answers: Artifact
    student: Artifact | None = None


def train(config: TrainConfig, folder: Path) -> tuple[float | None, Path]:
    """`train.py`: the whole flow; returns the accuracy of the scorer's student and the run directory."""
    run_dir = run_directory(config)
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
        systems = [*(_baseline(b, flow) for b in config.evaluation.baselines), _compressed(config, flow)]
        rows = _rows(systems, config.evaluation.confidence)
        for row in rows:
            tracker.log(
                "evaluate",
                {f"{row.system}/accuracy": row.accuracy.value, f"{row.system}/tokens": row.mean_tokens.value},
            )
    _finish(run_dir, config, systems, rows, flow.artifacts)
    return rows[-1].accuracy.value, run_dir


def _baseline(kind: Baseline, flow: Flow) -> _System:
    match kind:
        case Baseline.base:
            return _System(name=BASE, ratio=1.0, actual_ratio=1.0, answers=flow.answers(BASE, None))
        case Baseline.original:
            student = flow.student(ORIGINAL, flow.uncompressed())
            answers = flow.answers(ORIGINAL, student)
            return _System(name=ORIGINAL, ratio=1.0, actual_ratio=1.0, answers=answers, student=student)


def _compressed(config: TrainConfig, flow: Flow) -> _System:
    name = config.scorer.name
    compressed = flow.compressed()
    student = flow.student(name, compressed)
    marker = config.ratio if config.compression.mixed_ratios else None
    answers = flow.answers(name, student, ratio=config.ratio, marker_ratio=marker)
    actual = float(compressed.facts["actual_ratio"])
    return _System(name=name, ratio=config.ratio, actual_ratio=actual, answers=answers, student=student)


def _rows(systems: list[_System], confidence: float) -> list[SystemResult]:
    predictions = {s.name: read_records(s.answers.file(PREDICTIONS), Prediction) for s in systems}
    return [
        summarize(
            predictions[s.name],
            s.name,
            s.ratio,
            s.actual_ratio,
            predictions.get(ORIGINAL),
            confidence=confidence,
            artifacts={a.stage: a.key for a in (s.student, s.answers) if a is not None},
        )
        for s in systems
    ]


def _finish(
    run_dir: Path,
    config: TrainConfig | EvaluateConfig,
    systems: list[_System],
    rows: list[SystemResult],
    artifacts: Mapping[str, Artifact],
) -> None:
    """Leave everything in the run directory that a user opens, and end with the table."""
    predictions = [p for s in systems for p in read_records(s.answers.file(PREDICTIONS), Prediction)]
    write_records(run_dir / PREDICTIONS, predictions, Prediction)
    stages = tuple(
        StageRecord(label=label, artifact=a.key, seconds=a.seconds, fresh=a.fresh) for label, a in artifacts.items()
    )
    results = RunResults(
        name=run_name(config),
        model=config.model.name,
        benchmark=config.benchmark.name,
        seed=config.seed,
        rows=tuple(rows),
        stages=stages,
        essentials=_essentials(config),
    )
    write_results(run_dir, results)
    report_run(run_dir)
    fresh = sum(s.seconds for s in stages if s.fresh)
    found = sum(not s.fresh for s in stages)
    log.info("stages: %d computed in %s, %d found done", len(stages) - found, duration(fresh), found)
    show(rows, f"{config.model.name} on {config.benchmark.name}, seed {config.seed}")
    sys.stdout.write(f"run directory: {run_dir}\n")


def _essentials(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    if isinstance(config, EvaluateConfig):
        return {"adapter": config.adapter, "ratio": config.ratio}
    return {
        "scorer": plain(config.scorer),
        "compression": plain(config.compression),
        "data": config.data.name,
        "reference": config.reference.origin,
        "sft": plain(config.sft.tune),
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
    store = ArtifactStore(Path(config.output_root))
    use_threads(config.trainer)
    name = config.name or (Path(config.adapter).name if config.adapter else BASE)
    asked = load_problems(config.benchmark, store)
    answers = answer(
        system=name,
        ratio=config.ratio,
        model=config.model,
        student=config.adapter,
        problems=asked,
        max_new_tokens=config.benchmark.max_new_tokens,
        marker_ratio=config.ratio,
        trainer=config.trainer,
        store=store,
    )
    system = _System(name=name, ratio=config.ratio, actual_ratio=None, answers=answers)
    rows = _rows([system], config.evaluation.confidence)
    with open_tracker(
        config.tracker, run_dir, run_name=run_name(config), group=None, tags=[name], resolved_config=plain(config)
    ) as tracker:
        tracker.log("evaluate", {"accuracy": rows[0].accuracy.value, "tokens": rows[0].mean_tokens.value})
    _finish(run_dir, config, [system], rows, {"benchmark": asked, "evaluate": replace(answers)})
    return rows[0].accuracy.value, run_dir


def report(config: ReportConfig, folder: Path) -> tuple[None, Path]:
    """`report.py`: tables and plots of all finished runs below a folder."""
    from cotpress.report.collect import compare

    output = Path(config.output) if config.output else Path(config.runs)
    found = report_collection(Path(config.runs), output)
    for comparison in compare(found.runs):
        show(list(comparison.rows), comparison.title)
    sys.stdout.write(f"report: {output / 'report.html'}\n")
    return None, output
