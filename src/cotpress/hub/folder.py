"""The folder for the hub: weights, record of the training, model card.

Everything is written below `.partial` in the folder first. Then the settings of an earlier export, without which no
library loads its weights, are removed with these, and the files are moved to their places, the new settings last. So a
command that is interrupted leaves no half of a model that looks whole.
"""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError, ConfigError
from cotpress.hub.card import model_card
from cotpress.hub.merging import write_merged
from cotpress.hub.publication import Publication
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.training_record import TRAINING_CONFIG
from cotpress.modeling.weights import MODEL_CONFIG
from cotpress.store.artifacts import follow_umask, write_text_atomic
from cotpress.store.local_names import published, without_paths
from cotpress.store.paths import disk_problem, lies_below

PARTIAL = ".partial"
_SETTINGS = (ADAPTER_CONFIG, MODEL_CONFIG)
OLD_WEIGHTS = (*_SETTINGS, "*.safetensors", "*.safetensors.index.json")
"""Patterns of the files of an earlier export that would be read beside those of another kind of weights."""
CARD = "README.md"
_NO_SETTINGS = ("tokenizer.json", "vocab.json", "*.index.json")
"""JSON files without names of paths, some of them large."""


def write_folder(
    publication: Publication,
    name: str,
    output: Path,
    *,
    base_path: str | None = None,
    unchecked: bool = False,
) -> Path:
    """Write the folder for the hub: weights, model card, and the record of the training.

    To the record beside the weights, if there is one, it adds the settings of the `run`, with masked secrets. For
    `base_path` and `unchecked` see `write_merged`.

    Raises:
        ConfigError: The folder has other content, or belongs to an artifact.
        ArtifactError: The disk is full or cannot be written.
    """
    artifacts = publication.store.output_root / "artifacts"
    if lies_below(output, artifacts):
        raise ConfigError(f"output: '{output}' lies in '{artifacts}', which holds students. Fix: another output=DIR")
    content = {path.name for path in output.iterdir()} if output.exists() else set()
    check_content(content, f"output: '{output}'", "another output=DIR")
    partial = output / PARTIAL
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a killed command
        partial.mkdir(parents=True)
        if publication.merge:
            write_merged(publication, partial, base_path, unchecked=unchecked)
        _copy_student(publication, partial)
        _describe(publication, name, partial)
        follow_umask(*(path for path in partial.rglob("*") if path.is_file()))
        _replace(partial, output)
    except Exception as error:  # safetensors has a type of its own for a full disk
        if isinstance(error, ConfigError | ArtifactError) or (problem := disk_problem(error)) is None:
            raise
        raise ArtifactError(f"output: '{output}' cannot be written: {problem}. Fix: another output=DIR") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def check_content(names: Collection[str], place: str, fix: str) -> None:
    """Raise a `ConfigError` unless a folder, or a repository of the hub, is empty or of an earlier export."""
    if {*names} - {PARTIAL} and TRAINING_CONFIG not in names:
        raise ConfigError(f"{place} is not empty and not of an earlier export. Fix: {fix}")


def _copy_student(publication: Publication, folder: Path) -> None:
    """Copy the student's files, and only those that have a checksum; of a merged one the record."""
    prefix = f"{publication.weights.name}/"
    for file in publication.training["files"]:
        name = file.removeprefix(prefix)
        if file.startswith(prefix) and (name == TRAINING_CONFIG or not publication.merge):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(publication.weights.parent / file, target)


def _describe(publication: Publication, name: str, folder: Path) -> None:
    for path in folder.rglob("*.json"):
        if not any(path.match(pattern) for pattern in _NO_SETTINGS):
            values = json.loads(path.read_text(encoding="utf-8"))
            if (clean := without_paths(values)) != values:
                _write_json(path, clean)
    if publication.publishes_adapter:  # PEFT loads the base model that the adapter's configuration names
        path = folder / ADAPTER_CONFIG
        adapter = {**json.loads(path.read_text(encoding="utf-8")), "base_model_name_or_path": publication.base_model}
        write_text_atomic(path, json.dumps(adapter, indent=2, sort_keys=True) + "\n")
    path = folder / TRAINING_CONFIG
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    _write_json(path, {**record, "base_model": publication.base_model, "run": published(publication.config.values)})
    write_text_atomic(folder / CARD, str(model_card(publication, name)))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text_atomic(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _replace(partial: Path, output: Path) -> None:
    """Move the files of `partial` into `output` in place of the weights and settings of an earlier export.

    The record comes first, as it marks the folder as an export that another command may replace.
    """
    for name in _SETTINGS:
        (output / name).unlink(missing_ok=True)
    for old in [*output.glob("*.safetensors"), *output.glob("*.safetensors.index.json")]:
        old.unlink()
    for path in sorted(partial.iterdir(), key=lambda p: (p.name in _SETTINGS, p.name != TRAINING_CONFIG)):
        target = output / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
