"""Run directories, with the results of a command:

    output_root/runs/<name>-<fingerprint>/
        config.yaml  results.json  predictions.parquet  metrics.csv  report.html

The fingerprint covers every setting that can change a result, so that the same command finds its run again and other
settings have a directory of their own. `finished.json` of a finished run records what else its results depend on (the
code, the input files), so that a repeated command can return them without loading a model.
"""

import functools
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.answers import package_versions
from cotpress.compression.config import Mode
from cotpress.config import (
    CompressConfig,
    EntryConfig,
    EvaluateConfig,
    FidelityConfig,
    PipelineConfig,
    Stage,
    TrainConfig,
)
from cotpress.errors import ArtifactError, ConfigError, UnreadableError
from cotpress.generation.config import ServerGenerationConfig
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.plugins import CHOICES, LOADED
from cotpress.progress import duration
from cotpress.records import PREDICTIONS_FILE, Prediction, SystemResult
from cotpress.report.results import RunResults, StageRecord, read_results, write_results
from cotpress.report.stage import report_run, show_run
from cotpress.report.students import read_students
from cotpress.settings import input_paths
from cotpress.store.artifacts import MANIFEST, ArtifactStore, fingerprint, plain, write_text_atomic
from cotpress.store.local_names import PATH_SETTINGS, name_of
from cotpress.store.paths import HUB_SCHEME, files_below, is_pattern, is_unreadable, matching, safe_name, unreadable
from cotpress.store.redaction import masked
from cotpress.store.source import code_of, package_hash
from cotpress.store.sweeps import Sweep, sweep_name
from cotpress.store.tables import write_records
from cotpress.tracking import Job

log = logging.getLogger(__name__)

HARDWARE_KEYS = ("trainer", "tracker", "output_root", "name", "until", "runs", "plan", "planning", "plugins")
"""Top-level keys left out of the run's fingerprint. The number format, which `trainer` and the machine determine, is
part of the `circumstances`; a run that ends early (`until`) is the beginning of the whole one."""
SERVER_KEYS = ("base_url", "api_key_env", "concurrency", "timeout_s", "max_retries")
"""Settings of a generation server left out of the run's fingerprint."""
FINISHED_FILE = "finished.json"
_OUTPUT_BYTES = 90
"""Most bytes in the name of the output folder of one job of a multirun."""
_HUB_CHARS = 95
"""Most characters of a hub id."""
_NOT_ON_HUB = r"[^A-Za-z0-9]*[^A-Za-z0-9.][^A-Za-z0-9]*|\.{2,}"
"""What the part of a name on the hub cannot have: other signs, and signs that follow each other."""


@functools.cache
def artifact_store(output_root: str) -> ArtifactStore:
    """The store below a folder; one for all of this process, so that the checksums of each file are compared once."""
    return ArtifactStore(Path(output_root))


def run_directory(config: TrainConfig | EvaluateConfig) -> Path:
    """Create the run directory of a configuration with its `config.yaml`, and return it."""
    path = run_path(config)
    write_config(path, plain(config))
    return path


def run_path(config: TrainConfig | EvaluateConfig) -> Path:
    """Path of the run directory of a configuration; it need not exist."""
    settings = _without(_without_hardware(config), SERVER_KEYS)
    # From another working directory a relative path leads to another file, which makes another run.
    relative = {key: str(path) for key, text, path in _inputs(config) if str(path) != text}
    digest = fingerprint({**settings, **({"inputs": relative} if relative else {})})
    return Path(config.output_root) / "runs" / f"{safe_name(run_name(config))}-{digest[:8]}"


def export_settings(config: CompressConfig) -> dict[str, Any]:
    """Every setting that can change what `compress.py` exports, as JSON values without secrets."""
    elsewhere = ("output", "shard", "private", "license")
    kept = {k: v for k, v in _without_hardware(config).items() if k not in elsewhere}
    values: dict[str, Any] = masked(_without(kept, SERVER_KEYS))
    return values


def export_path(config: CompressConfig) -> Path:
    """Folder of an export; without `output`, and for one that is uploaded, each has one of its own."""
    if config.output is not None and config.repository is None:
        return Path(config.output)
    digest = fingerprint(export_settings(config))
    return Path(config.output_root) / "compressed" / f"{safe_name(run_name(config))}-{digest[:8]}"


def row_settings(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    """Settings that can distinguish a row of this run from a row of another run, as JSON values.

    Left out are the seed and the ratio, which are part of every row, the keys outside the run's fingerprint, and the
    models' `tuning`, whose values are also in `sft` and `reference`.
    """
    kept = {k: v for k, v in _without_hardware(config).items() if k not in ("seed", "ratio")}
    return _without(kept, (*SERVER_KEYS, "tuning"))


def own_output(output: str, sweep: Sweep, overrides: Sequence[str]) -> str:
    """Output path of a job of a multirun, so that no job overwrites the output of another.

    It is a folder below `output` (the setting, resolved), named after those of the job's `overrides` that distinguish
    it from the others. It is `output` itself if the jobs differ in the shard only, or if each job has a different
    `output` already. A data set of the hub gets a name with that of the folder at its end.
    """
    if any(text.startswith("output=") and "${" in text for text in overrides):
        return output
    shared = set(overrides).intersection(*(job.overrides for job in sweep.jobs)) if sweep.planned else set()
    own = [text for text in overrides if text not in shared and not text.startswith("shard=")]
    if not own or any(text.startswith("output=") for text in own):
        return output
    if output.startswith(HUB_SCHEME):
        settings = [text.partition("=") for text in own]
        shown = ",".join(f"{k}={name_of(v) if k.rpartition('.')[2] in PATH_SETTINGS else v}" for k, _, v in settings)
        digest = fingerprint({"own": own})[:8]
        room = max(_HUB_CHARS - len(output.removeprefix(HUB_SCHEME)) - len(digest) - 2, 0)
        name = re.sub(_NOT_ON_HUB, "-", shown)[:room].strip("-.")
        return "-".join(part for part in (output, name, digest) if part)
    name = safe_name(",".join(own), unsafe=r"[^\w.=,@+-]", replacement="_", num_bytes=_OUTPUT_BYTES)
    return str(Path(output, name))


def tracked_job(
    config: PipelineConfig | EvaluateConfig | FidelityConfig, run_dir: Path, folder: Path, system: str
) -> Job:
    """Describe the job for the tracker; `system` is the label of its own system."""
    benchmark = config.benchmark.title if isinstance(config, TrainConfig | EvaluateConfig) else ""
    own_length = isinstance(config, PipelineConfig) and config.compression.has_own_length
    return Job(
        run_dir=run_dir,
        name=run_name(config),
        system=system,
        model=config.model.name,
        data="" if isinstance(config, EvaluateConfig) else config.data.name,
        benchmark=config.truth.name if isinstance(config, FidelityConfig) else benchmark,
        ratio=None if isinstance(config, FidelityConfig) or own_length else config.ratio,
        sweep=sweep_name(folder),
        config=plain(config),
        output_root=Path(config.output_root),
    )


def essentials(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    """The most important settings of a run besides its evaluation, as JSON values."""
    if isinstance(config, EvaluateConfig):
        return {"adapter": config.adapter, "ratio": config.ratio}
    return {
        "scorer": plain(config.scorer),
        "compression": plain(config.compression),
        "data": config.data.name,
        "reference": config.reference.origin,
        "sft": {**plain(config.sft.tune), **({} if config.sft.question else {"question": False})},
    }


def finish(
    run_dir: Path,
    config: TrainConfig | EvaluateConfig,
    rows: list[SystemResult],
    predictions: list[Prediction],
    stages: Mapping[str, StageRecord],
) -> tuple[float, Path]:
    """Write the files of the run directory and show the table; return the accuracy of the last row and the folder."""
    about = RunSettings(name=run_name(config), essentials=essentials(config), settings=row_settings(config))
    write_run(run_dir, config, about, rows, predictions, stages)
    fresh = [s.seconds for s in stages.values() if s.fresh]
    reused = len(stages) - len(fresh)
    log.info("stages: %d computed in %s, %d found done", len(fresh), duration(sum(fresh)), reused)
    show_run(run_dir)
    return rows[-1].accuracy.value, run_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Name of a run, its settings (`row_settings`), and those that its rows are named after (`essentials`)."""

    name: str
    essentials: Mapping[str, Any]
    settings: Mapping[str, Any]


def write_run(
    run_dir: Path,
    config: TrainConfig | EvaluateConfig,
    about: RunSettings,
    rows: Sequence[SystemResult],
    predictions: list[Prediction],
    stages: Mapping[str, StageRecord],
) -> None:
    """Write results, predictions and page into a run directory; `config` are the settings of this command."""
    results = RunResults(
        name=about.name,
        model=config.model.name,
        benchmark=config.benchmark.title,
        seed=config.seed,
        confidence=config.evaluation.confidence,
        rows=tuple(rows),
        stages=tuple(stages.values()),
        essentials={**about.essentials, "evaluation": about.settings["evaluation"]},
        settings=dict(about.settings),
    )
    write_records(run_dir / PREDICTIONS_FILE, predictions, Prediction)
    write_results(run_dir, results)
    report_run(run_dir)


def circumstances(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    """Dependencies of a run's results outside its fingerprint, as JSON values: the code, the state of the input files,
    the processor, and the tracker, which must receive the results too."""
    inputs = {str(path): _state(path, key) for key, _, path in _inputs(config)}
    return {
        "code": _code(config.plugins),
        "packages": package_versions(),
        "inputs": inputs,
        "tracker": plain(config.tracker),
        "processor": _processor(config),
    }


def note_finished(run_dir: Path, metric: float | None, around: Mapping[str, Any], until: Stage | None = None) -> None:
    """Record that a run is finished, or its part `until` a stage, with the `circumstances` at its start."""
    path = _finished_file(run_dir, until)
    write_text_atomic(path, json.dumps({"metric": metric, "circumstances": masked(around)}) + "\n")


def _finished_file(run_dir: Path, until: Stage | None) -> Path:
    return run_dir / (FINISHED_FILE if until is None else f"finished-{until.value}.json")


def find_finished(config: EntryConfig) -> tuple[float | None, Path] | None:
    """Metric and directory of the run of this configuration, if it is finished and its circumstances are unchanged.

    With `until=sft` it is finished when its students are. None is always safe: the flow then looks up the artifact of
    each stage.

    Raises:
        UnreadableError: There is a record of it, which the system does not hand out.
    """
    if not isinstance(config, TrainConfig | EvaluateConfig):
        return None
    if os.environ.get("WANDB_SWEEP_ID"):
        return None  # the agent needs the metrics in this W&B run
    until = config.until if isinstance(config, TrainConfig) else None
    if until not in (None, Stage.sft):
        return None
    run_dir = run_path(config)
    path = _finished_file(run_dir, until)
    try:
        noted = json.loads(path.read_bytes())
        around, metric = noted["circumstances"], noted["metric"]
        found = (read_results if until is None else read_students)(run_dir)
    except UnreadableError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ArtifactError) as error:
        if is_unreadable(error):
            raise unreadable(path, error) from error
        return None
    artifacts = Path(config.output_root) / "artifacts"
    complete = all((artifacts / stage.artifact / MANIFEST).exists() for stage in found.stages)
    own = found.settings == masked(row_settings(config))  # `evaluate.py runs=DIR` may have written others
    if not (complete and own and isinstance(metric, float | int | None)) or around != masked(circumstances(config)):
        return None
    return metric, run_dir


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Create a run directory and write its `config.yaml`.

    Raises:
        ArtifactError: It cannot be written.
    """
    import yaml

    values = masked(values)
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    if "\x85" in text:  # PyYAML writes this line break unescaped and reads it as a space
        text = yaml.safe_dump(values, sort_keys=False)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path / "config.yaml", text)
    except OSError as error:
        raise ArtifactError(f"cannot write the run directory '{path}': {error}. Fix: output_root=DIR") from error


def run_name(config: PipelineConfig | EvaluateConfig | FidelityConfig) -> str:
    """The configured name, or a name composed of the settings that distinguish the run."""
    if isinstance(config, FidelityConfig):
        return f"fidelity-{config.name or config.scorer.name}-{config.truth.name}"
    if config.name:
        return config.name
    if isinstance(config, EvaluateConfig):
        return f"evaluate-{config.model.name}-{config.benchmark.title}-{config.ratio:g}"
    compression = config.compression
    if compression.has_own_length:
        return f"{config.selector}-{config.model.name}"
    kinds = {"mixed": bool(compression.mixed_ratios), compression.mode.value: compression.mode is not Mode.delete}
    variant = "".join(f"-{kind}" for kind, applies in kinds.items() if applies)
    return f"{config.selector}-{config.ratio:g}{variant}-{config.model.name}"


def _without_hardware(config: TrainConfig | EvaluateConfig | CompressConfig) -> dict[str, Any]:
    return {k: v for k, v in plain(config).items() if k not in HARDWARE_KEYS}


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Copy `values` without some keys, at any depth."""
    return {k: _without(v, keys) if isinstance(v, dict) else v for k, v in values.items() if k not in keys}


def _inputs(config: TrainConfig | EvaluateConfig) -> Iterator[tuple[str, str, Path]]:
    """Yield place, value and absolute path of every setting that names an existing file or folder, or is a pattern."""
    for owner, key, text in input_paths(config):
        if isinstance(owner, ModelConfig) and owner.source is not ModelSource.hub:
            continue  # the name of a package or of a built-in model
        path = os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111 (pathlib refuses unknown users)
        if os.path.exists(path) or is_pattern(Path(path)):  # noqa: PTH110 (pathlib refuses what is no path)
            yield key, text, Path(path)


def _state(path: Path, key: str) -> str:
    """Hash of names, sizes and times of a file, or of every file in a folder or of a pattern.

    The times are those of the last change of content and of any change, the latter of which no program can set.

    Raises:
        ConfigError: The folder, which the setting `key` names, holds too many files.
    """
    if is_pattern(path):
        states = {str(file): file.stat() for file in matching(path)}
    else:
        files = files_below(path, key) if path.is_dir() else [path]
        states = {str(file.relative_to(path)): file.stat() for file in files}
    return fingerprint({name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in states.items()})


def _processor(config: TrainConfig | EvaluateConfig) -> dict[str, str] | None:
    """Device and its number format under `dtype: auto`, on which models and artifacts depend.

    None if a server does all the work, or if the device is missing, which the work itself reports.
    """
    if isinstance(config, EvaluateConfig) and isinstance(config.evaluation.generation, ServerGenerationConfig):
        return None
    # Imported here, as torch takes seconds and is often not needed.
    from cotpress.devices import launch as devices
    from cotpress.modeling.loading import resolve_dtype

    try:
        device = devices.pick_device(config.trainer)
    except ConfigError:
        return None
    auto = str(resolve_dtype(Dtype.auto, device)).removeprefix("torch.")
    return {"device": device.type, "auto_dtype": auto}


def _code(plugins: Sequence[str]) -> dict[str, Any]:
    """Hashes of this package and of all plugins, as changed code may give other results and other pages."""
    modules = {*plugins, *LOADED, *(kind.__module__ for choices in CHOICES.values() for kind in choices.values())}
    return {
        "package": package_hash(),
        "plugins": code_of(*(sys.modules[name] for name in modules if name in sys.modules)),
    }
