"""Run directories: what a user opens after a command.

    output_root/runs/<name>-<fingerprint>/
        config.yaml  results.json  predictions.parquet  metrics.csv  report.html

The fingerprint covers every setting that can change a result, so the same command finds its run again and a sweep
over anything else gets a directory of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotpress.artifacts import fingerprint, plain, write_text_atomic
from cotpress.config import EvaluateConfig, PipelineConfig, TrainConfig
from cotpress.errors import ArtifactError

HARDWARE_KEYS = ("trainer", "tracker", "output_root", "name")
"""Top-level keys that never change a result."""
SERVER_KEYS = ("base_url", "api_key_env", "concurrency", "timeout_s", "max_retries")
"""Settings of a generation server that do not either."""


def run_directory(config: TrainConfig | EvaluateConfig) -> Path:
    """The run directory of a configuration, made if need be, with its `config.yaml`.

    Raises:
        ArtifactError: It cannot be written.
    """
    values: dict[str, Any] = plain(config)
    digest = fingerprint(_without_servers({k: v for k, v in values.items() if k not in HARDWARE_KEYS}))
    path = Path(config.output_root) / "runs" / f"{run_name(config)}-{digest[:8]}"
    write_config(path, values)
    return path


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Write `config.yaml` into a run directory, which is made if need be.

    Raises:
        ArtifactError: It cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path / "config.yaml", _yaml(values))
    except OSError as error:
        raise ArtifactError(f"cannot write the run directory '{path}': {error}. Fix: output_root=DIR") from error


def run_name(config: PipelineConfig | EvaluateConfig) -> str:
    """The name a user gave, or one made of scorer, ratio and model."""
    if config.name:
        return safe_name(config.name)
    if isinstance(config, PipelineConfig):
        mixed = "-mixed" if config.compression.mixed_ratios else ""
        return safe_name(f"{config.scorer.name}-{config.ratio:g}{mixed}-{config.model.name}")
    return safe_name(f"evaluate-{config.model.name}-{config.benchmark.title}-{config.ratio:g}")


def safe_name(name: str) -> str:
    """`name` as part of a path."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _without_servers(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without where a server is and how fast it is asked."""
    kept = {k: _without_servers(v) if isinstance(v, dict) else v for k, v in values.items()}
    return {k: v for k, v in kept.items() if k not in SERVER_KEYS}


def _yaml(values: Mapping[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(values)))
