"""The task of `evaluate.py`: a given model or adapter and the baselines beside it on a benchmark."""

from dataclasses import replace
from pathlib import Path

from cotpress.config import EvaluateConfig
from cotpress.data.stage import problems
from cotpress.devices.launch import set_up_torch
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.evaluation.summary import token_counter
from cotpress.generation.backends import KeptBackend
from cotpress.generation.config import ServerGenerationConfig
from cotpress.modeling.training_record import TRAINING_CONFIG
from cotpress.modeling.weights import ADAPTER
from cotpress.records import BASE, ORIGINAL, Origin, System
from cotpress.store.students import student_name
from cotpress.tasks.run_directory import artifact_store, finish, run_directory, tracked_job
from cotpress.tasks.systems import (
    Examinee,
    at_ratios,
    change_of,
    examine,
    shortened,
    stage_record,
    tell_left_out,
)
from cotpress.tracking import open_tracker, track_results

_loaded = KeptBackend()
"""The jobs of `evaluate.py -m` run one after the other in one process and load the same weights once."""


def evaluate(config: EvaluateConfig, folder: Path) -> tuple[float | None, Path]:
    """Evaluate a checkpoint or adapter; returns its accuracy and the run directory."""
    run_dir = run_directory(config)
    set_up_torch(config.trainer)
    count = token_counter(config.evaluation.reference_tokenizer)
    store = artifact_store(config.output_root)
    benchmark = problems(config.benchmark, store)
    stages = {"benchmark": stage_record("benchmark", benchmark, store)}
    tell_left_out(config, store, has_base=config.adapter is not None)  # ratio 1 is a row of any given model
    rows, predictions = examine(
        examinees(config), config, problems=benchmark, store=store, stages=stages, count=count, opened=_loaded
    )
    job = tracked_job(config, run_dir, folder, rows[-1].system)
    with open_tracker(config.tracker, job) as tracker:
        track_results(tracker, rows, predictions)
    return finish(run_dir, config, rows, predictions, stages)


def examinees(config: EvaluateConfig) -> list[Examinee]:
    """The baselines, then the given model or adapter: at ratio 1, at further ratios, and at the ratio of the run."""
    name, baselines = config.name or given_name(config), config.evaluation.baselines
    origin = {s.name: s.origin for s in (ORIGINAL, BASE)}.get(name, Origin.given)
    ratio = 1.0 if config.marker is False else config.ratio
    system = System(name=name, origin=origin, ratio=ratio)
    given = Examinee(system=system, student=config.adapter, marker_ratio=ratio)
    if Baseline.ratio_one in baselines:
        given = replace(given, ratio_one=given.at(1.0))
    rows = []
    if Baseline.base in baselines and config.adapter:  # without an adapter the given model is the base model
        rows.append(Examinee(system=BASE, student=None, marker_ratio=1.0, actual_ratio=1.0))
    untuned = config.evaluation.prompted is Prompted.base and config.adapter is not None
    for kind in baselines:
        change = change_of(kind, config)
        if change is not None:
            rows.append(shortened(change, None if untuned else given))
    return [*rows, *at_ratios(given, config.evaluation.ratios)]


def given_name(config: EvaluateConfig) -> str:
    """Name of the evaluated system: that of the adapter, or of a whole student, or of another model on the server, or
    Base."""
    generation = config.evaluation.generation
    if config.adapter:
        return adapter_name(config.adapter)
    if isinstance(generation, ServerGenerationConfig) and generation.model != config.model.path:
        return adapter_name(generation.model)
    if (name := student_name(config.model.path)) is not None:
        return name
    folder = Path(config.model.path).expanduser()
    return (
        folder.resolve().name if (folder / TRAINING_CONFIG).is_file() else BASE.name
    )  # a student that was published or merged


def adapter_name(adapter: str) -> str:
    """Row name of an adapter: that of a student that was trained here, else the last part of its path, or of the parent
    if the last part is `adapter`."""
    path = Path(adapter)
    if (name := student_name(adapter)) is not None:
        return name
    return path.parent.name if path.name == ADAPTER and path.parent.name else path.name
