"""The task of `train.py`: the stage calls in order, then the table.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report

Every stage returns an artifact and computes it only if it is missing, so the jobs of a sweep share what they have in
common, and a repeated command resumes where the last one stopped.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from cotpress.compression.stage import LOSS_SHARE, reached_ratio
from cotpress.config import Stage, TrainConfig
from cotpress.evaluation.config import Baseline
from cotpress.evaluation.summary import token_counter
from cotpress.generation.backends import KeptBackend
from cotpress.records import ORIGINAL, SHORTEST, System
from cotpress.report.stage import show_ended
from cotpress.report.students import Ended, write_until
from cotpress.store.artifacts import Artifact
from cotpress.tasks.flow import Flow
from cotpress.tasks.run_directory import finish, run_directory, tracked_job
from cotpress.tasks.students import Students, Trained, examinees, keep_students, needs_original
from cotpress.tasks.systems import compressed_system, examine, random_beside, tell_left_out
from cotpress.tracking import open_tracker, track_results
from cotpress.training.config import Overlong

log = logging.getLogger(__name__)


def train(config: TrainConfig, folder: Path) -> tuple[float | None, Path]:
    """Run the whole flow; returns the accuracy of the scorer's student, from 0 to 1, and the run directory.

    With `until` the run ends after that stage, without an accuracy.
    """
    run_dir = run_directory(config)
    job = tracked_job(config, run_dir, folder, compressed_system(config).label)
    with open_tracker(config.tracker, job) as tracker:
        flow = Flow(config, tracker)
        if not config.reaches(Stage.sft):
            return _end_early(config, flow, run_dir)
        students = train_students(config, flow)
        keep_students(config, students, flow, run_dir)
        if config.until is Stage.sft:
            show_ended(run_dir, config.until.value)
            return None, run_dir
        count = token_counter(config.evaluation.reference_tokenizer)
        tell_left_out(config, flow.store, own=students.own.system)
        with KeptBackend() as opened:  # a server ends here: the next training needs the GPU
            rows, predictions = examine(
                examinees(config, students),
                config,
                problems=flow.problems,
                store=flow.store,
                stages=flow.stages,
                count=count,
                opened=opened,
            )
        track_results(tracker, rows, predictions)
    return finish(run_dir, config, rows, predictions, flow.stages)


def train_students(config: TrainConfig, flow: Flow) -> Students:
    """Train the student of the scorer, and Original and Shortest where they are needed."""
    common = config.sft.overlong is Overlong.common
    original = shortest = None
    if needs_original(config):
        original = Trained(system=ORIGINAL, artifact=flow.original, reached={"": 1.0})
    if Baseline.shortest in config.evaluation.baselines:
        shortest = Trained(system=SHORTEST, artifact=flow.shortest, reached={"": 1.0})
    system, compressed = compressed_system(config), flow.compressed()
    beside = [flow.uncompressed()] if common else []
    if original is not None and not common and not config.starts_from_writer:
        _tell_fewer_traces(config, flow, system.title, compressed)
    random = None
    if Baseline.random in config.evaluation.baselines and (control := random_beside(system)) is not None:
        random = _trained(config, flow, control, flow.cut_at_random, [*beside, *([compressed] if common else [])])
    own = _trained(config, flow, system, compressed, beside)
    return Students(original=original, own=own, random=random, shortest=shortest)


def _trained(
    config: TrainConfig, flow: Flow, system: System, compressed: Artifact, beside: Sequence[Artifact]
) -> Trained:
    """Train a student of compressed traces; `beside` are those of the other systems that it shares its rows with."""
    ratios = [None, *dict.fromkeys([*config.compression.mixed_ratios, 1.0])]
    reached = {"" if r is None else str(float(r)): reached_ratio(compressed, r) for r in ratios}
    return Trained(
        system=system,
        artifact=flow.student(system, compressed, beside),
        reached={marker: kept for marker, kept in reached.items() if kept is not None},
        loss_share=compressed.facts.get(LOSS_SHARE),
    )


def _tell_fewer_traces(config: TrainConfig, flow: Flow, name: str, compressed: Artifact) -> None:
    """Warn, once, of traces that Original learns from and the scorer's student has not."""
    num_rows, num_original = (made.manifest["num_rows"] for made in (compressed, flow.uncompressed()))
    line = (
        f"sft.overlong={config.sft.overlong.value}: {name} has {num_rows} of the {num_original} traces of Original, so "
        "the two students learn from different data; sft.overlong=common would train both on the same"
    )
    if num_rows < num_original and flow.store.first_time(line):
        log.warning("%s", line)


def _end_early(config: TrainConfig, flow: Flow, run_dir: Path) -> tuple[None, Path]:
    """Make the artifacts of the stage `until`, which is before sft, and show their folders."""
    assert config.until is not None
    keys = {artifact.key for artifact in artifacts_until(config.until, config, flow)}
    made = {record.title: record.artifact for record in flow.stages.values() if record.artifact in keys}
    write_until(run_dir, Ended(until=config.until.value, made=made))
    show_ended(run_dir, config.until.value)
    return None, run_dir


def artifacts_until(stage: Stage, config: TrainConfig, flow: Flow) -> list[Artifact]:
    """The artifacts of a stage before sft that a run needs; those that are missing are computed."""
    made = [flow.data]
    match stage:
        case Stage.data:
            made += [flow.labelled_traces] if config.needs_labels else []
        case Stage.distill:
            made = [flow.distilled] if config.needs_labels else []
        case Stage.reference:
            reference = flow.reference if config.needs_reference else None
            made = [] if reference is None else [reference]
        case Stage.score:
            made = [] if flow.selected_by is None else [flow.selected_by]
        case Stage.compress:
            whole = needs_original(config) and not config.starts_from_writer
            made = [flow.compressed(), *([flow.uncompressed()] if whole else [])]
    return made
