"""What a finished run knows about its student: weights, settings, and every result that was measured with it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError, ConfigError
from cotpress.modeling.config import ModelSource
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import SystemResult
from cotpress.report.results import CONFIG_FILE, RESULTS_FILE, RunResults, read_results
from cotpress.store.artifacts import MANIFEST, file_sha256
from cotpress.store.paths import checked_key, lies_below, stays_below


@dataclass(frozen=True, slots=True)
class Settings:
    """A `config.yaml` by attributes, as plain values: nothing in it is resolved, looked up or made an object of."""

    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        """The value or group of a name.

        Raises:
            ArtifactError: There is none.
        """
        if name not in self.values:
            raise ArtifactError(f"{CONFIG_FILE} of the run has no '{name}'. Fix: run the same command again")
        return self.get(name)

    def get(self, name: str) -> Any:
        """The same; None without."""
        value = self.values.get(name)
        return Settings(value) if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A student and what a card says about it.

    Attributes:
        weights: Folder with a PEFT adapter or a whole model.
        is_adapter: Which of both.
        config: The run's whole configuration.
        base_model: Hub id of the model it starts from.
        results: Every run with this student and the rows of it that are shown, own rows and Original's.
        compression: Manifest of the training data.
        training: Manifest of the student.
    """

    weights: Path
    is_adapter: bool
    config: Settings
    base_model: str
    results: tuple[tuple[RunResults, tuple[SystemResult, ...]], ...]
    compression: dict[str, Any]
    training: dict[str, Any]

    @property
    def own_rows(self) -> list[tuple[RunResults, SystemResult]]:
        """Rows of the student itself, in the order of the runs."""
        return [(run, row) for run, rows in self.results for row in rows if row.system == run.rows[-1].system]


def read_publication(run_dir: Path, base_model: str | None) -> Publication:
    """Everything about the student of a finished run of `train.py`.

    Args:
        run_dir: Run directory; its artifacts lie beside it, in `../../artifacts`.
        base_model: Hub id of the base model; None takes the one that the run names.

    Raises:
        ArtifactError: The run is not finished, trained no student, or its student is missing or damaged.
        ConfigError: The run's base model has no known hub id.
    """
    results = read_results(run_dir)
    student = results.rows[-1].artifacts.get("sft")
    if student is None:
        raise ArtifactError(
            f"'{run_dir}' trained no student. Fix: give a run directory of train.py, run=outputs/runs/NAME"
        )
    artifacts = run_dir.resolve().parents[1] / "artifacts"
    folder = artifacts / checked_key(student)
    manifest = _verified(folder)
    weights = TrainedWeights.below(folder)
    if weights is None:
        raise ArtifactError(f"'{folder}' holds no adapter and no model. Fix: run the same command again")
    config = _settings(run_dir / CONFIG_FILE)
    data = _manifest(artifacts / checked_key(manifest["identity"]["compressed"]))
    return Publication(
        weights=Path(weights.path),
        is_adapter=weights.is_adapter,
        config=config,
        base_model=base_model or _hub_id(config),
        results=tuple(_with_student(run_dir, student)),
        compression=data,
        training=manifest,
    )


def _with_student(run_dir: Path, student: str) -> Iterator[tuple[RunResults, tuple[SystemResult, ...]]]:
    """The given run first, then its neighbours with the same student: other ratios, other benchmarks.

    Of two runs that ask the same ratio on the same benchmark (with another token budget, say) the first one stands.
    """
    asked: set[tuple[str, float]] = set()
    others = sorted(p.parent for p in run_dir.parent.glob(f"*/{RESULTS_FILE}") if p.parent != run_dir)
    for folder in [run_dir, *others]:
        try:
            found = read_results(folder)
        except ArtifactError:
            if folder == run_dir:
                raise
            continue  # an unfinished neighbour has nothing to say
        if any(row.artifacts.get("sft") == student for row in found.rows) and found.rows[-1].system != "Original":
            shown = tuple(r for r in found.rows if r.artifacts.get("sft") == student or r.system == "Original")
            if (what := (found.benchmark, found.rows[-1].target_ratio)) not in asked:
                asked.add(what)
                yield found, shown


def _settings(path: Path) -> Settings:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArtifactError(f"'{path}' cannot be read: {error}. Fix: run the same command again") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"'{path}' holds no settings. Fix: run the same command again")
    return Settings(values)


def _hub_id(config: Settings) -> str:
    model = config.model
    named = model.hub_id if "hub_id" in model.values else None  # runs of earlier releases do not have it
    known = named or (model.path if model.source == ModelSource.hub.value else None)
    if known is None or Path(known).exists():
        raise ConfigError(
            f"base_model: the run's model '{model.path}' has no known hub id, and a card has to name one. "
            "Fix: base_model=USER/NAME"
        )
    return str(known)


def _verified(folder: Path) -> dict[str, Any]:
    manifest = _manifest(folder)
    files = manifest["files"].items()
    if outside := [n for n, _ in files if not stays_below(n) or not lies_below(folder / n, folder)]:
        raise ArtifactError(f"artifact '{folder}': its manifest names {outside[:3]}, which lie elsewhere")
    wrong = [n for n, digest in files if not (folder / n).is_file() or file_sha256(folder / n) != digest]
    if wrong:
        raise ArtifactError(f"artifact '{folder}' is damaged: {', '.join(wrong)}. Fix: run the same command again")
    return manifest


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"artifact '{folder}' cannot be read: {error}. Fix: run the same command again") from error
    return manifest
