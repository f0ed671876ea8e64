"""The merged model of a LoRA student: its base model with the adapter folded into the weights, for tools without PEFT.

PEFT adds a base weight and the adapter, which it loads in float32, in float32 and rounds the sum once to the number
format of the base model. So the result has the size of the base model and the nearest weights in its format.
`evaluate.py` folds an adapter in the same way, so in that format it computes with these very weights.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cotpress.errors import ArtifactError, ConfigError, ModelError
from cotpress.hub.publication import Publication, Settings
from cotpress.modeling.config import Attention, Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import (
    architecture_of,
    is_trained_on,
    load_model,
    load_tokenizer,
    model_identity,
    quiet_transformers,
)
from cotpress.modeling.training_record import TrainingRecord
from cotpress.prompts import ChatFormat, published_template
from cotpress.store.source import without_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

KEY = "base_path"
"""Setting of the folder of the base model, for messages."""


def write_merged(publication: Publication, folder: Path, base_path: str | None, *, unchecked: bool = False) -> None:
    """Write the merged model: safetensors, config, generation config, and tokenizer with the chat template.

    Args:
        publication: The student and its settings.
        folder: An existing folder.
        base_path: Folder of the base model; None is that of the run.
        unchecked: Take a base model whose content cannot be compared with that of the training.

    Raises:
        ModelError: The base model is missing, quantized, brings its own code, or is not that of the training.
        ArtifactError: The disk has no room.
    """
    base, store = base_model(publication.config, base_path), publication.store
    trained = publication.training["identity"].get("model", {})
    if trained.get("hub") == base.path:  # the hub may have another commit by now
        base.revision = trained["commit"]
    _, architecture = architecture_of(base, store, key=KEY)
    if getattr(architecture, "quantization_config", None):
        kind = dict(architecture.quantization_config).get("quant_method", "an unknown method")
        raise ModelError(
            f"merge: the base model '{base.path}' is quantized ({kind}), and a sum with the adapter has no place in "
            "its few bits. Fix: leave merge out; the adapter works on the quantized model"
        )
    own = getattr(architecture, "dtype", None) or torch.float32
    base.dtype = Dtype.bfloat16 if own is torch.bfloat16 else Dtype.float32
    _check_same(publication, trained, base, unchecked=unchecked)
    log.info("merge: adding the adapter to '%s'", base.path)
    model = load_model(base, store, adapter=publication.weights, merge_adapter=True, key=KEY)
    if own is torch.float16:
        model = model.to(own)
    _check_room(model, folder)
    tokenizer = load_tokenizer(base, store, key=KEY)
    record = TrainingRecord.beside(publication.weights, str(publication.weights))
    if record is not None:
        tokenizer.chat_template = published_template(tokenizer, record.chat)
        _end_at(model, ChatFormat(tokenizer, record.chat).end_id)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def base_model(settings: Settings, base_path: str | None) -> ModelConfig:
    """The base model of a run, from plain values of its settings, or the one in a folder.

    Raises:
        ArtifactError: The settings do not describe a model.
        ModelError: It runs code of its own, which the settings in a file must not allow.
    """
    model = settings.model
    try:
        names = {key: model.get(key) for key in ("name", "path", "revision", "hub_id")}
        if not all(value is None or isinstance(value, str) for value in names.values()) or names["path"] is None:
            raise ValueError(f"{names} are no names")
        base = ModelConfig(**names, source=ModelSource(model.source), attention=Attention.eager)
    except (AttributeError, ValueError) as error:
        raise ArtifactError(f"the settings of the run describe no model: {error}. Fix: run it again") from error
    if model.get("trust_remote_code"):
        raise ModelError(
            f"merge: the base model '{base.path}' runs Python code of its own, which a merged model would need beside "
            "its weights. Fix: leave merge out"
        )
    if base_path is not None:
        base.hub_id = base.path  # by which the adapter names its base model
        base.source, base.path, base.revision = ModelSource.hub, base_path, None
        if not Path(base_path).expanduser().is_dir():
            raise ConfigError(f"{KEY}: '{base_path}' is no folder. Fix: {KEY}=DIR with the base model of the student")
    return base


def _check_same(publication: Publication, trained: Mapping[str, Any], base: ModelConfig, *, unchecked: bool) -> None:
    """Refuse a base model with other content than the training had, or of which that is unknown unless `unchecked`."""
    names = ("hub", "commit", "directory", "gguf", "model")
    before, now = (
        {k: v for k, v in without_code(i).items() if k in names} for i in (trained, model_identity(base, key=KEY))
    )
    if before == now or is_trained_on(publication.weights, base):  # also a snapshot in the cache of the hub
        return
    if before.keys() == now.keys():
        raise ModelError(
            f"merge: '{base.path}' is not the model that the student was trained on: got {now}, the training had "
            f"{before}. Fix: {KEY}=DIR with that model, or train again"
        )
    if not unchecked:
        raise ModelError(
            f"merge: it is not known whether '{base.path}' ({now}) is the model of the training ({before}), which was "
            f"read from another kind of source. Fix: leave {KEY} out, or {KEY}=DIR of the model's snapshot in the "
            "cache of the hub; unchecked=true merges all the same"
        )
    log.warning("merge: not checked whether '%s' is the model of the training", base.path)


def _check_room(model: "PreTrainedModel", folder: Path) -> None:
    needed = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ArtifactError(
            f"merge: the merged model needs {needed / 1e9:.1f} GB below '{folder}'; {free / 1e9:.1f} GB are free. Fix: "
            "dry_run=true output=DIR on a larger disk; a push writes below TMPDIR first"
        )


def _end_at(model: "PreTrainedModel", end_id: int) -> None:
    """Add the token that ends a turn to those at which other tools stop, as base models may name another one only."""
    settings = model.generation_config
    known = settings.eos_token_id
    ids = [] if known is None else known if isinstance(known, list) else [known]
    if end_id not in ids:
        settings.eos_token_id = [*ids, end_id]
