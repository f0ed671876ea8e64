"""Contents of a publication, read from a finished run: student weights, settings, and all results of the student."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError, ConfigError
from cotpress.invocation import program
from cotpress.modeling.config import ModelSource
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import CONFIG_FILE, RESULTS_FILE, Origin, SystemResult
from cotpress.report.results import RunResults, read_results
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.store.paths import is_unreadable, lies_below, unreadable


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a `config.yaml` as attributes; they are plain values, and nothing in them is resolved or executed."""

    values: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        """Return a value or group by name; a missing one raises an `ArtifactError`."""
        if name not in self.values:
            raise ArtifactError(f"{CONFIG_FILE} of the run has no '{name}'. Fix: run the same command again")
        return self.get(name)

    def get(self, name: str) -> Any:
        """Return a value or group by name; None if it is missing."""
        value = self.values.get(name)
        return Settings(value) if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A student and the content of its model card.

    Attributes:
        weights: Folder with a PEFT adapter or a whole model.
        is_adapter: True if it holds an adapter.
        merge: True to publish the base model with this adapter folded into its weights.
        base_model: Hub id of the base model.
        licence: The licence that the user gives the student; None for that of the base model's card.
        results: All runs with this student, each with the rows to show: the student's and Original's.
        compression: Manifest of the training data.
        training: Manifest of the student.
    """

    weights: Path
    is_adapter: bool
    merge: bool = False
    config: Settings
    base_model: str
    licence: str | None = None
    results: tuple[tuple[RunResults, tuple[SystemResult, ...]], ...]
    compression: Mapping[str, Any]
    training: Mapping[str, Any]
    store: ArtifactStore

    @property
    def publishes_adapter(self) -> bool:
        """True if a reader puts the published weights on the base model."""
        return self.is_adapter and not self.merge


def read_publication(
    run_dir: Path, base_model: str | None, *, merge: bool = False, licence: str | None = None
) -> Publication:
    """Read the student of a finished run of `train.py`, whose artifacts are in `../../artifacts`.

    A `base_model` of None is read from the run.

    Raises:
        ArtifactError: The run is not finished, trained no student, or its student is missing or damaged.
        ConfigError: The hub id of the run's base model is unknown, or there is no adapter to merge.
    """
    rows = read_results(run_dir).rows
    key = rows[-1].artifacts.get("sft") if rows else None
    if key is None:
        raise ArtifactError(
            f"'{run_dir}' trained no student. Fix: give a run directory of {program('train')}, run=outputs/runs/NAME"
        )
    store = ArtifactStore(run_dir.resolve().parents[1])
    student = _open(store, key)
    if outside := [n for n in student.manifest["files"] if not lies_below(student.path / n, student.path)]:
        raise ArtifactError(f"artifact '{key}': its manifest names {outside[:3]}, which lie elsewhere")
    try:
        for name in student.manifest["files"]:
            student.file(name)  # verifies the checksum
    except ArtifactError as error:
        raise ArtifactError(f"{error}. Fix: run the same command again") from error
    weights = TrainedWeights.below(student.path)
    if weights is None:
        raise ArtifactError(f"'{student.path}' holds no adapter and no model. Fix: run the same command again")
    if merge and not weights.is_adapter:
        raise ConfigError(
            "merge: got true, but all weights of this student were trained, so it is a whole model already. Fix: leave "
            "merge out"
        )
    config = _settings(run_dir / CONFIG_FILE)
    return Publication(
        weights=Path(weights.path),
        is_adapter=weights.is_adapter,
        merge=merge,
        config=config,
        base_model=base_model or _hub_id(config),
        licence=licence,
        results=tuple(_runs_with(key, run_dir)),
        compression=_open(store, student.manifest["identity"]["compressed"]).manifest,
        training=student.manifest,
        store=store,
    )


def _open(store: ArtifactStore, key: str) -> Artifact:
    artifact = store.open(key)
    if artifact is None:
        raise ArtifactError(f"artifact '{key}' of the run is missing. Fix: run the same command again")
    return artifact


def _runs_with(student: str, run_dir: Path) -> Iterator[tuple[RunResults, tuple[SystemResult, ...]]]:
    """Yield the given run, then its neighbours with the same student: other ratios, other benchmarks.

    Of several runs with the same ratio and benchmark (and e.g. another token budget) only the first is included.
    """
    seen: set[tuple[str, float]] = set()
    others = sorted(p.parent for p in run_dir.parent.glob(f"*/{RESULTS_FILE}") if p.parent != run_dir)
    for folder in [run_dir, *others]:
        try:
            run = read_results(folder)
        except ArtifactError:
            continue  # the neighbour is not finished
        own = [row for row in run.rows if row.artifacts.get("sft") == student]
        setting = run.benchmark, run.rows[-1].target_ratio
        if own and run.rows[-1].source.origin is not Origin.original and setting not in seen:
            seen.add(setting)
            yield run, tuple(row for row in run.rows if row in own or row.source.origin is Origin.original)


def _settings(path: Path) -> Settings:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        # A few lines of aliases of aliases are gigabytes once they are written out; our own files have none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("it has a YAML alias, allowed: plain values")
        values = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if is_unreadable(error):
            raise unreadable(path, error) from error
        raise ArtifactError(f"'{path}' cannot be read: {error}. Fix: run the same command again") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"'{path}' holds no settings. Fix: run the same command again")
    return Settings(values)


def _hub_id(config: Settings) -> str:
    model = config.model
    # Runs of earlier releases have no model.hub_id.
    hub_id = model.get("hub_id") or (model.path if model.source == ModelSource.hub.value else None)
    if hub_id is None or Path(hub_id).exists():
        named = model.path if model.source == ModelSource.hub.value else model.name
        raise ConfigError(
            f"base_model: the run's model '{named}' has no known hub id, and a card has to name one. "
            "Fix: base_model=USER/NAME"
        )
    return str(hub_id)
