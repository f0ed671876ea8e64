"""The task of `evaluate.py`: a given model or adapter, and the baselines beside it, on a benchmark."""

from dataclasses import replace
from pathlib import Path

from cotpress.config import EvaluateConfig
from cotpress.data.stage import problems
from cotpress.devices.device import use_determinism, use_threads
from cotpress.evaluation.baselines import Shortening, shortening
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.evaluation.summary import token_counter
from cotpress.generation.backends import KeptBackend
from cotpress.generation.config import ServerGenerationConfig
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.tasks.finish import finish, tracked_job
from cotpress.tasks.run_directory import run_directory
from cotpress.tasks.systems import BASE, Examinee, at_ratios, examine, measure
from cotpress.tracking import open_tracker, track_results

_loaded = KeptBackend()
"""The jobs of `evaluate.py -m` run one after the other in one process: the same weights are loaded once."""


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
    job = tracked_job(config, run_dir, folder, systems[-1].name, config.benchmark.title)
    with open_tracker(config.tracker, job) as tracker:
        track_results(tracker, rows, predictions)
    finish(run_dir, config, rows, predictions, artifacts)
    return rows[-1].accuracy.value, run_dir


def examinees(config: EvaluateConfig) -> list[Examinee]:
    """The baselines, then the given model or adapter: at ratio 1, at further ratios, and at the asked one."""
    name, wanted = config.name or given_name(config), config.evaluation.baselines
    given = Examinee(name=name, student=config.adapter, ratio=config.ratio, marker_ratio=config.ratio)
    if Baseline.ratio_one in wanted:
        given = replace(given, ratio_one=replace(given, ratio=1.0, marker_ratio=1.0))
    found = []
    if Baseline.base in wanted and config.adapter:  # without an adapter, it is the base model that is evaluated
        found.append(Examinee(name=BASE, student=None, marker_ratio=1.0, actual_ratio=1.0))
    for kind in wanted:
        how = shortening(kind, config.ratio, config.evaluation.instructions)
        if how is not None:
            found.append(_shortened(how, given, config.evaluation.prompted))
    return [*found, *at_ratios(given, config.evaluation.ratios)]


def _shortened(how: Shortening, given: Examinee, prompted: Prompted) -> Examinee:
    """A baseline without training; its ActRatio is relative to the same model, asked as it is."""
    if prompted is Prompted.base and given.student is not None:
        return Examinee(name=f"{how.name} ({BASE})", student=None, ratio=how.ratio, shortening=how)
    return Examinee(name=how.name, student=given.student, ratio=how.ratio, shortening=how, ratio_one=given.ratio_one)


def given_name(config: EvaluateConfig) -> str:
    """Name of what is evaluated: the adapter's, or the server's name for what is not the model itself, or Base."""
    writer = config.evaluation.generation
    if config.adapter:
        return adapter_name(config.adapter)
    if isinstance(writer, ServerGenerationConfig) and writer.model != config.model.path:
        return adapter_name(writer.model)
    return BASE


def adapter_name(adapter: str) -> str:
    """Name of an adapter's row: its last part, or the folder around it where that is just `adapter`."""
    path = Path(adapter)
    return path.parent.name if path.name == "adapter" and path.parent.name else path.name
