"""A reference model that was trained elsewhere, as an artifact of the reference stage.

Its files are linked, not copied: a full model may take many GB. The identity of the artifact is the content of the
files, so the same model in another folder is the same artifact.
"""

import json
import logging
from pathlib import Path
from typing import Any

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.modeling.sources import directory_sha256
from cotpress.modeling.weights import ADAPTER, MODEL, MODEL_CONFIG, TrainedWeights
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary

log = logging.getLogger(__name__)


def saved_reference(folder: Path, *, base: ModelConfig, store: ArtifactStore) -> Artifact:
    """The reference model in `folder` (`adapter/` or `model/`, as the reference stage leaves it).

    Args:
        folder: A PEFT adapter, a whole model (safetensors), or an earlier artifact of the reference stage.
        base: The model that it was trained from; gives the weights below an adapter, the tokenizer and the chat format.
        store: Store of the artifact.

    Raises:
        ModelError: The folder does not exist or holds neither an adapter nor a model.
        ConfigError: The tokenizer of the whole model is not that of the base model.
    """
    weights = find_saved(folder)
    source, kind = Path(weights.path), ADAPTER if weights.is_adapter else MODEL
    if weights.is_adapter:
        _warn_of_other_base(source, base)
    else:
        _check_tokenizer(source, base, store)

    def produce(workdir: Path) -> Summary:
        (workdir / kind).mkdir(exist_ok=True)
        for file in sorted(source.iterdir()):
            link = workdir / kind / file.name
            if (
                file.is_file() and file.suffix != ".py" and not link.exists()
            ):  # the base may be trusted to run code, this model not
                link.symlink_to(file.resolve())
        return Summary(num_rows=0, facts={"kind": kind})

    return store.build("reference", {"saved": kind, "content": directory_sha256(source)}, produce)


def find_saved(folder: Path) -> TrainedWeights:
    """The weights of a saved reference model.

    Raises:
        ModelError: The folder does not exist or holds neither an adapter nor a model.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ModelError(f"reference.path: there is no folder '{folder}' (looked at {folder.absolute()})")
    if (weights := TrainedWeights.below(folder)) is not None:
        return weights
    raise ModelError(
        f"reference.path: '{folder}' holds no reference model: {sorted(p.name for p in folder.iterdir())[:12]}. "
        f"Allowed: a PEFT adapter ({ADAPTER_CONFIG}) or a whole model ({MODEL_CONFIG}) with safetensors weights, "
        "or a folder of outputs/artifacts/reference. For a model on the hub: reference=none model@reference.base=NAME"
    )


def _check_tokenizer(folder: Path, base: ModelConfig, store: ArtifactStore) -> None:
    """Check that the model's tokenizer is that of the base model, whose tokens it reads."""
    if not (folder / "tokenizer.json").is_file():
        log.warning("reference.path: %s has no tokenizer; assuming that of '%s'", folder, base.name)
        return
    own = ModelConfig(name=folder.name, source=ModelSource.hub, path=str(folder.absolute()))
    if tokenizer_fingerprint(load_tokenizer(own, store)) != tokenizer_fingerprint(load_tokenizer(base, store)):
        raise ConfigError(
            f"reference.path: the model in '{folder}' has another tokenizer than '{base.name}'. "
            "Fix: model@reference.base=NAME of the model that it was trained from"
        )


def _warn_of_other_base(folder: Path, base: ModelConfig) -> None:
    settings: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    made_for = str(settings.get("base_model_name_or_path") or base.path)
    if made_for.rstrip("/").rpartition("/")[2] != base.path.rstrip("/").rpartition("/")[2]:
        log.warning(
            "reference.path: the adapter names '%s' as its base model, but is used with '%s'", made_for, base.path
        )
