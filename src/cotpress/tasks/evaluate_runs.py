"""The task of `evaluate.py runs=DIR`: all students of finished trainings answer, and complete the tables of their runs.

The model, benchmark and evaluation of a run are those of its own `students.json`, except for the keys that the command
line gives. The backend and the hardware are those of this command. Results go into the directory of the run where they
are the answers that the run has left out, else into a directory beside it (`results_directory`).

A server loads adapters on request. Fully tuned students it has to serve already: those are asked that it lists under
their names. A run is complete when the answers of all its students are there, from one server or several.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cotpress.config import SCHEMAS, EvaluateConfig, check_rows_of_settings, check_sampling
from cotpress.data.config import BenchmarkConfig
from cotpress.data.overlap import decontaminated, overlap
from cotpress.data.stage import problems
from cotpress.devices.launch import set_up_torch
from cotpress.errors import ArtifactError, ConfigError, DataError, ModelError, NotServedError
from cotpress.evaluation.config import EvaluationConfig
from cotpress.evaluation.summary import token_counter
from cotpress.generation.backends import KeptBackend
from cotpress.generation.config import ServerGenerationConfig
from cotpress.generation.server import ServerBackend
from cotpress.invocation import as_typed
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import is_trained_on
from cotpress.modeling.weights import TrainedWeights
from cotpress.plugins import CHOICES
from cotpress.records import CONFIG_FILE, MIXED, STUDENTS_FILE, Prediction, SystemResult
from cotpress.report.results import StageRecord, output_root_of_run, read_results, run_directories
from cotpress.report.stage import report_collection, show_collection, show_run
from cotpress.report.students import Student, TrainedRun, read_students
from cotpress.store.artifacts import fingerprint
from cotpress.store.paths import safe_name
from cotpress.store.redaction import print_lines
from cotpress.store.students import STUDENTS, student_folder
from cotpress.tasks import RunsJob
from cotpress.tasks.checks import check_needs, first_missing
from cotpress.tasks.run_directory import RunSettings, artifact_store, row_settings, tracked_job, write_config, write_run
from cotpress.tasks.students import examinees, kept_students
from cotpress.tasks.systems import CONTENT, Examinee, examine, stage_record, tell_left_out
from cotpress.tracking import open_tracker, track_results
from cotpress.tracking.config import TrackerKind

log = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT")

_loaded = KeptBackend()
_OWN = ("model", "benchmark", "evaluation", "n")
"""Keys of a run that this command may replace, all below them included."""
_MACHINE = ("trainer", "tracker", "output_root", "plugins", "runs", "evaluation.generation")
"""Keys that are those of this command in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run to ask: its students, the effective settings as objects and as JSON values, and the output folder."""

    run_dir: Path
    trained: TrainedRun
    config: EvaluateConfig
    settings: Mapping[str, Any]

    def rows(self, config: EvaluateConfig) -> list[Examinee]:
        """The systems of the run's table."""
        return examinees(config, kept_students(self.trained, self.run_dir))

    def is_on_own_base(self) -> bool | None:
        """True if the base model has the content of that of the training, False if another; None if that is unknown.

        A server may be the only place of the weights.
        """
        artifact = kept_students(self.trained, self.run_dir).own.artifact
        try:
            return is_trained_on(Path(TrainedWeights.of(artifact).path), self.config.model)
        except ModelError:
            if isinstance(self.config.evaluation.generation, ServerGenerationConfig):
                return None
            raise

    def folder(self, student: Student) -> Path:
        """The folder of a student that a server is started with."""
        root = Path(self.config.output_root)
        weights = TrainedWeights.below(root / "artifacts" / student.artifact)
        return (
            root / STUDENTS / student.name
            if weights is None
            else student_folder(student.name, Path(weights.path), root)
        )


def evaluate_runs(job: RunsJob, folder: Path) -> tuple[None, Path]:
    """Ask the students of all runs below `runs`, write their results, and show the table of all these runs."""
    runs, place = find_runs(job), Path(job.config.runs or "")
    log.info("runs: %d of the %d below '%s' have trained students", len(runs), len(run_directories(place)), place)
    set_up_torch(job.config.trainer)
    served = served_models(job.config, runs)
    directories, waiting = [], dict[str, None]()
    for run in runs:
        _tell_overlap(run)
        tell_left_out(run.config, artifact_store(run.config.output_root), own=run.trained.own)
        if left := _ask(run, served):
            waiting |= dict.fromkeys(left)
        else:
            directories.append(_finish(run, served, folder))
    if (place / CONFIG_FILE).exists():  # a single run, whose page is its own
        for directory in directories:
            show_run(directory)
    else:
        show_collection(report_collection(place, further=directories), place)
    if waiting:
        print_lines(f"not served, so not in the table: {len(waiting)}", *(f"  {line}" for line in waiting))
    return None, place


def check_runs(job: RunsJob) -> None:
    """Raise all problems of the runs and of what asking them needs, before a student is asked."""
    seen = set[str]()
    for run in find_runs(job):
        missing = first_missing(run.config, run.rows)
        needed = fingerprint({"config": replace(run.config, name=None, ratio=1.0, seed=0), "missing": missing})
        if needed not in seen:
            seen.add(needed)
            check_needs(run.config, asked=run.rows)
        if run.is_on_own_base() is False:
            own = run.trained.settings["model"]["path"]
            raise ConfigError(
                f"model.path: got '{run.config.model.path}', whose files are not those of the model that the students "
                f"of '{run.run_dir}' were trained on ('{own}'), so their numbers would mean nothing. Fix: "
                "model.path=DIR with the same files, for a model of the hub also model.revision=COMMIT; "
                f"{as_typed('evaluate')} adapter=DIR puts a student on any model"
            )


def find_runs(job: RunsJob) -> list[Run]:
    """Read the runs with trained students at or below `runs`.

    Raises:
        ConfigError: A key that the runs decide themselves, or an unknown kind of benchmark.
        DataError: There is no such run.
    """
    keys = list(_given_keys(job.given))
    place = Path(job.config.runs or "")
    if not place.is_dir():
        raise DataError(f"runs: '{place}' is no folder. Fix: runs=DIR, the folder that holds the run directories")
    found = _trained(place)
    if not found:
        raise DataError(
            f"runs: no run below '{place}' has trained students ({STUDENTS_FILE}). Fix: train them, e.g. with "
            f"{as_typed('train')} until=sft, or give the folder of their runs"
        )
    runs = [_run(path, job.config, keys) for path in found]
    if (ratios := job.config.evaluation.ratios) and not any(_has_marker(run.trained) for run in runs):
        raise ConfigError(
            f"evaluation.ratios: got {ratios}, which only a control marker in the prompt announces, but no student "
            f"below '{place}' was trained with one. Fix: leave evaluation.ratios out; students of compression=mixed "
            "follow a marker"
        )
    return runs


def _trained(place: Path) -> list[Path]:
    return [path for path in run_directories(place) if (path / STUDENTS_FILE).exists()]


def benchmark_with(place: Path, names: Set[str]) -> BenchmarkConfig | None:
    """The benchmark of the first run at or below a folder whose benchmark has settings of these names; None without."""
    for run_dir in _trained(place):
        with suppress(ArtifactError):  # `find_runs` reports it
            trained = read_students(run_dir)
            if names <= trained.settings["benchmark"].keys():
                return _own_benchmark(trained, run_dir)
    return None


def _own_benchmark(trained: TrainedRun, run_dir: Path) -> BenchmarkConfig:
    return _objects(_benchmark_class(trained.kinds["benchmark"], run_dir), trained.settings["benchmark"])


def _given_keys(overrides: Sequence[str]) -> Iterator[str]:
    """Yield the keys that a command line gives, and refuse those that the runs decide."""
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~").rpartition("@")[2].replace("/", ".")
        if any(_is_below(key, machine) for machine in _MACHINE):
            continue
        if key == "model" or _is_below(key, "model.chat") or not any(_is_below(key, own) for own in _OWN):
            raise ConfigError(
                f"runs: got '{text}' with it, but the runs say that themselves. Allowed: benchmark, evaluation, n, "
                "settings below model, its chat excepted (model.path=DIR for a base model that lies elsewhere here), "
                "generation@evaluation.generation, trainer, tracker. Fix: leave it out"
            )
        yield "evaluation.samples" if key == "n" else key


def _is_below(key: str, place: str) -> bool:
    return key == place or key.startswith(f"{place}.")


def _run(run_dir: Path, command: EvaluateConfig, keys: Sequence[str]) -> Run:
    trained = read_students(run_dir)
    settings = trained.settings
    generation = replace(command.evaluation.generation, seed=trained.seed)
    model = _objects(ModelConfig, settings["model"], tuning=command.model.tuning)
    if model.trust_remote_code and not command.model.trust_remote_code:
        raise ConfigError(
            f"runs: the model of '{run_dir}' runs Python code that comes with its weights, and a file alone must not "
            "allow that. Fix: model.trust_remote_code=true if you trust it"
        )
    benchmark = _own_benchmark(trained, run_dir)
    evaluation = _objects(EvaluationConfig, settings["evaluation"], generation=generation)
    config = replace(
        command, runs=None, model=model, benchmark=benchmark, evaluation=evaluation, seed=trained.seed,
        ratio=trained.ratio, name=trained.name,
    )  # fmt: skip
    for key in keys:
        config = _with(config, key.split("."), command)
    kept_students(trained, run_dir)
    evaluation = replace(config.evaluation, generation=generation)
    config = replace(
        config,
        benchmark=_of_protocol(benchmark, config.benchmark, keys),
        evaluation=evaluation if _has_marker(trained) else replace(evaluation, ratios=[]),
        output_root=str(output_root_of_run(run_dir, trained.students[0].artifact)),
    )
    check_sampling(config.evaluation, config.benchmark)
    check_rows_of_settings(config.evaluation)
    effective = row_settings(config)
    replaced = {key: effective[key] for key in ("model", "benchmark", "evaluation")}
    return Run(run_dir=run_dir, trained=trained, config=config, settings={**settings, **replaced})


def _has_marker(trained: TrainedRun) -> bool:
    """True if the student of a run's scorer follows a control marker."""
    return any(student.system.variant == MIXED for student in trained.students)


def _of_protocol(run: BenchmarkConfig, changed: BenchmarkConfig, keys: Sequence[str]) -> BenchmarkConfig:
    """The benchmark of a run with another protocol: budget and prompt are the protocol's, as where it is composed.

    Those that the run or the command line gave by themselves stay.
    """
    if "benchmark" in keys:  # composed as a whole
        return changed
    names = [
        name for name in ("max_new_tokens", "prompt")
        if f"benchmark.{name}" not in keys and getattr(run, name) == getattr(run.followed, name)
    ]  # fmt: skip
    return replace(changed, **{name: getattr(changed.followed, name) for name in names})


def _objects(kind: type[SettingsT], values: Mapping[str, Any], **objects: Any) -> SettingsT:
    """Build settings from their JSON values, and from `objects` in place of some.

    Raises:
        ConfigError: The values are not those of this class, as in another release.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain_values = {key: value for key, value in values.items() if key not in objects}
        if "${" in json.dumps(plain_values):
            raise ConfigError(
                "runs: the settings of a run hold '${', which would be resolved here, and a file alone must not "
                "ask for that. Fix: replace it in its students.json"
            )
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind(**objects)), plain_values))
    except OmegaConfBaseException as error:
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"runs: the settings of a run are no {kind.__name__} of this release: {problem}") from error
    assert isinstance(built, kind)
    return built


def _benchmark_class(name: str, run_dir: Path) -> type[BenchmarkConfig]:
    """The class of a run's benchmark, among those that this process knows: a file must not name what is imported."""
    known = [*SCHEMAS.values(), *CHOICES.get("benchmark", {}).values()]
    for kind in known:
        if kind.__name__ == name and issubclass(kind, BenchmarkConfig):
            return kind
    raise ConfigError(
        f"runs: '{run_dir}' has a benchmark of the unknown kind {name}. Fix: plugins=[MODULE] that has it"
    )


def _with(config: Any, parts: Sequence[str], command: Any) -> Any:
    """Copy settings with the value that a command has at a place."""
    name, rest = parts[0], parts[1:]
    value = getattr(command, name)
    if rest:
        own = getattr(config, name)
        if rest[0] not in {f.name for f in fields(own)}:
            raise ConfigError(
                f"runs: {name}.{'.'.join(rest)} is no setting of the {name} of a run ({getattr(own, 'name', name)}). "
                f"Fix: leave it out, or choose another {name} as well, {name}=NAME"
            )
        value = _with(own, rest, value)
    return replace(config, **{name: value})


def served_models(command: EvaluateConfig, runs: Sequence[Run]) -> dict[str, str] | None:
    """Names on the server of the fully tuned students, by artifact, and of the untuned model, by an empty key.

    A student is served under its name, or under the path of a folder that ends in `students/NAME` or in the folder of
    its artifact. None without a server, or where adapters alone are asked.
    """
    generation = command.evaluation.generation
    full = {s.artifact: s for run in runs for s in run.trained.students if not _is_adapter(run, s)}
    if not isinstance(generation, ServerGenerationConfig) or not full:
        return None
    listed = ServerBackend(generation, context_tokens=runs[0].config.model.context_tokens).listed()
    names = [generation.model, *listed]
    served = {key: name for key, s in full.items() for name in reversed(names) if _is_name_of(name, s)}
    if generation.model not in served.values() and (not listed or generation.model in listed):
        served[""] = generation.model
    log.info(
        "generation server %s: serves %s", generation.base_url, ", ".join(served.values()) or "none of the students"
    )
    return served


def _is_adapter(run: Run, student: Student) -> bool:
    weights = TrainedWeights.below(Path(run.config.output_root) / "artifacts" / student.artifact)
    return weights is None or weights.is_adapter


def _is_name_of(name: str, student: Student) -> bool:
    parts = Path(name).parts
    return (
        name == student.name
        or parts[-2:] == (STUDENTS, student.name)
        or parts[-3:-1] == tuple(student.artifact.split("/"))
    )


def _tell_overlap(run: Run) -> None:
    """Warn of training traces that show a problem of a benchmark other than the run's, whose problems were left out."""
    config, data = run.config, next((stage for stage in run.trained.stages if stage.label == "data"), None)
    if data is None or run.settings["benchmark"] == run.trained.settings["benchmark"]:
        return
    store, benchmark = artifact_store(config.output_root), config.benchmark
    traces, name = store.open(data.artifact), run.trained.settings["data"]["name"]
    if traces is not None:
        found = overlap(traces, problems(benchmark, store), benchmark.prompt, store)
        decontaminated(
            traces, found, store, group="data", name=name, benchmark=benchmark.title, remove=False
        )  # only tells
        return
    line = (
        f"benchmark={benchmark.title}: cannot be compared with the training traces (data={name}), as "
        f"'{Path(config.output_root) / 'artifacts' / data.artifact}' is not here. Fix: copy it as well, to be told of "
        "problems that students have learnt from"
    )
    if store.first_time(line):
        log.warning("%s", line)


def _ask(run: Run, served: Mapping[str, str] | None) -> list[str]:
    """Let the systems of a run answer; returns a line for each whose model no server serves."""
    rows, left = run.rows(run.config), dict[str, None]()
    groups: dict[str, list[Examinee]] = {}
    for row in rows:
        groups.setdefault(getattr(row.student, "key", ""), []).append(row)
    for key, members in groups.items():
        try:
            _examined(run, members, served)
        except NotServedError:
            student = next((s for s in run.trained.students if s.artifact == key), None)
            if student is None:
                base = run.config.model.path
                left[f"{members[0].system.label}: vllm serve {base}, and evaluation.generation.model={base}"] = None
            else:
                place = run.folder(student)
                left[f"{student.name}: vllm serve {place} --served-model-name {STUDENTS}/{student.name}"] = None
    return list(left)


def _examined(
    run: Run, rows: Sequence[Examinee], served: Mapping[str, str] | None
) -> tuple[list[SystemResult], list[Prediction], dict[str, StageRecord]]:
    config, stages = run.config, {stage.label: stage for stage in run.trained.stages}
    store = artifact_store(config.output_root)
    benchmark = problems(config.benchmark, store)
    stages["benchmark"] = stage_record("benchmark", benchmark, store)
    count = token_counter(config.evaluation.reference_tokenizer)
    results = examine(
        rows, config, problems=benchmark, store=store, stages=stages, count=count, opened=_loaded, served=served
    )
    return *results, stages


def _finish(run: Run, served: Mapping[str, str] | None, folder: Path) -> Path:
    """Write the results of a run whose systems have all answered; returns their directory."""
    config = run.config
    rows, predictions, stages = _examined(run, run.rows(config), served)
    directory = results_directory(run, stages["benchmark"].facts[CONTENT])
    if directory != run.run_dir:
        write_config(directory, {**run.settings, "seed": config.seed, "ratio": config.ratio, "name": config.name})
    job = tracked_job(config, directory, folder, rows[-1].system)
    job = replace(job, data=run.trained.settings["data"]["name"])
    kind = TrackerKind.csv if config.tracker.kind is TrackerKind.none else config.tracker.kind
    with open_tracker(replace(config.tracker, kind=kind), job) as tracker:  # none would replace those of the training
        students = kept_students(run.trained, run.run_dir)
        for other in students.all[:-1]:
            tracker.of_system(other.system.label).artifact(other.artifact)
        tracker.artifact(students.own.artifact)
        track_results(tracker, rows, predictions)
    about = RunSettings(name=run.trained.name, essentials=run.trained.essentials, settings=run.settings)
    write_run(directory, config, about, rows, predictions, stages)
    return directory


def results_directory(run: Run, problems: str) -> Path:
    """The directory for the results of a run; `problems` is the content of the benchmark that is asked.

    It is the run's own if benchmark and protocol are the run's and no results of other settings are there. Else it lies
    beside the run's and is named after the benchmark and the settings. Files are compared by their content, and a base
    model of unknown content by its path.
    """
    places = ("benchmark",) if run.is_on_own_base() is None else ("benchmark", "model")

    def compared(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {**settings, **{group: {**settings[group], "path": None} for group in places}}

    own = run.trained.settings
    backend = {"evaluation": {**own["evaluation"], "generation": run.settings["evaluation"]["generation"]}}
    if compared(run.settings) == compared({**own, **backend}) and _has(run.trained.stages, problems):
        try:
            before = read_results(run.run_dir)
        except ArtifactError:
            return run.run_dir
        if compared(run.settings) == compared(before.settings) and _has(before.stages, problems):
            return run.run_dir
    distinct = {"seed": run.config.seed, "ratio": run.config.ratio, "problems": problems}
    digest = fingerprint({**compared(run.settings), **distinct})
    name = safe_name(f"{run.trained.name}-{run.config.benchmark.title}")
    return run.run_dir.parent / f"{name}-{digest[:8]}"


def _has(stages: Sequence[StageRecord], problems: str) -> bool:
    """True if the benchmark of some stages has this content."""
    return any(stage.label == "benchmark" and stage.facts.get(CONTENT) == problems for stage in stages)
