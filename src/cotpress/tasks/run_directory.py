"""Run directories, with the results of a command:

    output_root/runs/<name>-<fingerprint>/
        config.yaml  results.json  predictions.parquet  metrics.csv  report.html

The fingerprint covers every setting that can change a result, so that the same command finds its run again and other
settings have a directory of their own. `finished.json` of a finished run records what else its results depend on (the
code, the input files), so that a repeated command can return them without loading a model.
"""

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.answers import package_versions
from cotpress.config import EntryConfig, EvaluateConfig, FidelityConfig, PipelineConfig, TrainConfig
from cotpress.errors import ArtifactError, ConfigError
from cotpress.generation.config import ServerGenerationConfig
from cotpress.modeling.config import Dtype
from cotpress.plugins import CHOICES, LOADED
from cotpress.progress import duration
from cotpress.records import PREDICTIONS_FILE, Prediction, SystemResult
from cotpress.report.results import RunResults, StageRecord, read_results, write_results
from cotpress.report.stage import report_run, show_run
from cotpress.store.artifacts import MANIFEST, fingerprint, plain, write_text_atomic
from cotpress.store.redaction import masked
from cotpress.store.source import code_of, package_hash
from cotpress.store.sweeps import Sweep, sweep_name
from cotpress.store.tables import write_records
from cotpress.tracking import Job

log = logging.getLogger(__name__)

HARDWARE_KEYS = ("trainer", "tracker", "output_root", "name", "plan", "planning", "plugins")
"""Top-level keys left out of the run's fingerprint. The number format, which `trainer` and the machine determine, is
part of the `circumstances`."""
SERVER_KEYS = ("base_url", "api_key_env", "concurrency", "timeout_s", "max_retries")
"""Settings of a generation server left out of the run's fingerprint."""
FINISHED_FILE = "finished.json"
_NAME_BYTES = 200
"""Most bytes of a name: file systems allow 255, and a fingerprint and the suffix of a temporary file are added."""


def run_directory(config: TrainConfig | EvaluateConfig) -> Path:
    """Create the run directory of a configuration with its `config.yaml`, and return it."""
    path = run_path(config)
    write_config(path, plain(config))
    return path


def run_path(config: TrainConfig | EvaluateConfig) -> Path:
    """Path of the run directory of a configuration; it need not exist."""
    digest = fingerprint(_without(_without_hardware(config), SERVER_KEYS))
    return Path(config.output_root) / "runs" / f"{run_name(config)}-{digest[:8]}"


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
    `output` already.
    """
    if any(text.startswith("output=") and "${" in text for text in overrides):
        return output
    shared = set(overrides).intersection(*(job.overrides for job in sweep.jobs)) if sweep.planned else set()
    own = [text for text in overrides if text not in shared and not text.startswith("shard=")]
    if not own or any(text.startswith("output=") for text in own):
        return output
    name = re.sub(r"[^\w.=,@+-]", "_", ",".join(own))
    if len(name.encode()) > _NAME_BYTES:
        name = hashlib.sha256(name.encode()).hexdigest()[:16]
    return str(Path(output, name))


def tracked_job(
    config: PipelineConfig | EvaluateConfig | FidelityConfig, run_dir: Path, folder: Path, system: str, data: str
) -> Job:
    """Describe the job for the tracker: `system` is the label of its system, `data` its training data or benchmark."""
    return Job(
        run_dir=run_dir,
        name=run_name(config),
        system=system,
        tags=(config.model.name, data),
        ratio=None if isinstance(config, FidelityConfig) else config.ratio,
        sweep=sweep_name(folder),
        config=plain(config),
        output_root=Path(config.output_root),
    )


def finish(
    run_dir: Path,
    config: TrainConfig | EvaluateConfig,
    rows: list[SystemResult],
    predictions: list[Prediction],
    stages: Mapping[str, StageRecord],
) -> tuple[float, Path]:
    """Write the files of the run directory and show the table; return the accuracy of the last row and the folder."""
    write_records(run_dir / PREDICTIONS_FILE, predictions, Prediction)
    settings = row_settings(config)
    if isinstance(config, EvaluateConfig):
        essentials: dict[str, Any] = {"adapter": config.adapter, "ratio": config.ratio}
    else:
        essentials = {
            "scorer": plain(config.scorer),
            "compression": plain(config.compression),
            "data": config.data.name,
            "reference": config.reference.origin,
            "sft": plain(config.sft.tune),
        }
    results = RunResults(
        name=run_name(config),
        model=config.model.name,
        benchmark=config.benchmark.title,
        seed=config.seed,
        confidence=config.evaluation.confidence,
        rows=tuple(rows),
        stages=tuple(stages.values()),
        essentials={**essentials, "evaluation": settings["evaluation"]},
        settings=settings,
    )
    write_results(run_dir, results)
    report_run(run_dir)
    fresh = [s.seconds for s in stages.values() if s.fresh]
    reused = len(stages) - len(fresh)
    log.info("stages: %d computed in %s, %d found done", len(fresh), duration(sum(fresh)), reused)
    show_run(run_dir)
    return rows[-1].accuracy.value, run_dir


def circumstances(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    """Dependencies of a run's results outside its fingerprint, as JSON values: the code, the state of the input files,
    the processor, and the tracker, which must receive the results too."""
    inputs = {text: _state(Path(text)) for text in sorted(set(_texts(plain(config)))) if os.path.exists(text)}  # noqa: PTH110
    return {
        "code": _code(config.plugins),
        "packages": package_versions(),
        "inputs": inputs,
        "tracker": plain(config.tracker),
        "processor": _processor(config),
    }


def note_finished(run_dir: Path, metric: float | None, around: Mapping[str, Any]) -> None:
    """Record that a run is finished, with the `circumstances` at its start."""
    write_text_atomic(run_dir / FINISHED_FILE, json.dumps({"metric": metric, "circumstances": around}) + "\n")


def find_finished(config: EntryConfig) -> tuple[float | None, Path] | None:
    """Metric and directory of the run of this configuration, if it is finished and its circumstances are unchanged.

    None is always safe: the flow then looks up the artifact of each stage.
    """
    if not isinstance(config, TrainConfig | EvaluateConfig):
        return None
    if os.environ.get("WANDB_SWEEP_ID"):
        return None  # the agent needs the metrics in this W&B run
    run_dir = run_path(config)
    try:
        noted = json.loads((run_dir / FINISHED_FILE).read_text(encoding="utf-8"))
        results = read_results(run_dir)
    except (OSError, ValueError, ArtifactError):
        return None
    artifacts = Path(config.output_root) / "artifacts"
    complete = all((artifacts / stage.artifact / MANIFEST).exists() for stage in results.stages)
    if not complete or noted.get("circumstances") != circumstances(config):
        return None
    return noted.get("metric"), run_dir


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
        return safe_name(config.name)
    if isinstance(config, EvaluateConfig):
        return safe_name(f"evaluate-{config.model.name}-{config.benchmark.title}-{config.ratio:g}")
    mixed = "-mixed" if config.compression.mixed_ratios else ""
    return safe_name(f"{config.scorer.name}-{config.ratio:g}{mixed}-{config.model.name}")


def safe_name(name: str) -> str:
    """Convert `name` to one part of a path, short enough for file systems."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return kept.encode()[:_NAME_BYTES].decode(errors="ignore")


def _without_hardware(config: TrainConfig | EvaluateConfig) -> dict[str, Any]:
    return {k: v for k, v in plain(config).items() if k not in HARDWARE_KEYS}


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Copy `values` without some keys, at any depth."""
    return {k: _without(v, keys) if isinstance(v, dict) else v for k, v in values.items() if k not in keys}


def _texts(values: object) -> Iterator[str]:
    """All texts in `values` that may name an input file or folder, without the output folder."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key != "output_root":
                yield from _texts(value)
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value)
    elif isinstance(values, str) and values:
        yield values


def _state(path: Path) -> list[list[Any]]:
    """Name, size and modification time of a file, or of every file in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files]


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
