"""Models and scorers of calls, each loaded once per process and kept until `free_models`."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from cotpress.api.settings import settings
from cotpress.compression.config import Selection
from cotpress.compression.cutting import Cutter
from cotpress.config import CompressConfig
from cotpress.errors import ConfigError
from cotpress.modeling.loading import check_finite, check_split, checked_tokenizer
from cotpress.scoring.direct import DirectScorer
from cotpress.scoring.models import Models
from cotpress.store.artifacts import fingerprint
from cotpress.tasks.flow import Compression
from cotpress.tracking import silent_tracker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Loaded: TypeAlias = "tuple[PreTrainedModel, PreTrainedTokenizerBase]"
"""A causal language model and its tokenizer, loaded by the caller."""

lock = threading.RLock()
"""Held while a call uses a model, as a scorer remembers the text that it reads."""
_FIXED = ("dtype", "scorer.dtype", "model.dtype", "model.attention", "model.path", "model.source", "model.revision")
"""Options without effect on a model that the caller has loaded."""

_opened: dict[tuple[int, ...], Opened] = {}
_models: dict[str, Models] = {}
_scorers: dict[str, DirectScorer | None] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """Configuration, scorer and cutter of a call; the scorer is None where all tokens stay."""

    config: CompressConfig
    given: Loaded | None
    scorer: DirectScorer | None
    cutter: Cutter

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock, with a model of the caller as it has to be to read."""
        with lock, _as_reader(self.given):
            yield


@contextmanager
def _as_reader(given: Loaded | None) -> Iterator[None]:
    """Put a model of the caller into eval mode, without gradients of its weights; afterwards it is as before."""
    model = None if given is None else given[0]
    training = [] if model is None else [module for module in model.modules() if module.training]
    tuned = [] if model is None else [weight for weight in model.parameters() if weight.requires_grad]
    for module in training:
        module.training = False
    for weight in tuned:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for weight in tuned:
            weight.requires_grad_(True)


def opened(
    *,
    scorer: str,
    ratio: float | None,
    model: str | Path | Loaded,
    reference: str | None,
    options: Mapping[str, Any],
    owners: tuple[str, ...],
) -> Opened:
    """Open what a call needs; models and scorers that are loaded already are used again. Arguments as of `settings`.

    Raises:
        ConfigError: A name or a value is wrong.
        ModelError: A model cannot be found, loaded or used.
    """
    given = None if isinstance(model, str | Path) else _pair(model)
    if given is None:
        named, values = str(model), dict(options)
    else:
        named, values = "hub", _for_given(given, reference, options)
    with lock:
        config = settings(scorer=scorer, model=named, ratio=ratio, reference=reference, options=values, owners=owners)
        key = (id(config), *map(id, given or ()))
        if key not in _opened:
            _opened[key] = _open(config, given)
        return _opened[key]


def free_models() -> None:
    """Forget everything that is loaded."""
    with lock:
        for kept in (_opened, _models, _scorers):
            kept.clear()
        gc.collect()
        torch.cuda.empty_cache()


def _open(config: CompressConfig, given: Loaded | None) -> Opened:
    flow = Compression(config, silent_tracker())
    models = replace(flow.models(), given=given)
    trained = [made and made.key for made in (models.reference, models.distilled)]
    identity = {"model": models.config, "trained": trained, "trainer": config.trainer, "root": config.output_root}
    of_models = fingerprint({**identity, "given": [id(part) for part in given or ()]})
    if of_models not in _models:
        if given is not None:
            with _as_reader(given):
                _check(given, config.model.path)
        _models[of_models] = models
    models = _models[of_models]
    compression, selects = config.compression, dict[str, Any]()
    if compression.selection is not Selection.exact:
        selects = {"compression": compression, "ratio": config.ratio, "seed": config.seed}
    keeps_all = not config.uses_scorer or (config.ratio >= 1 and not compression.mixed_ratios)
    of_scorer = fingerprint({"models": of_models, "scorer": None if keeps_all else config.scorer, **selects})
    if of_scorer not in _scorers:
        _scorers[of_scorer] = flow.direct(models)
    return Opened(config, given, _scorers[of_scorer], flow.cutter(models.tokenizer))


def _pair(model: Any) -> Loaded:
    """Return what the caller gave as a model and its tokenizer, if it is that."""
    match model:
        case (torch.nn.Module() as loaded, tokenizer) if hasattr(tokenizer, "is_fast"):
            return loaded, tokenizer
    kinds = [type(part).__name__ for part in model] if isinstance(model, tuple | list) else [type(model).__name__]
    raise ConfigError(
        f"model: got ({', '.join(kinds)}), allowed: a name, a folder, a hub id, or a loaded (model, tokenizer)"
    )


def _for_given(given: Loaded, reference: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call with a model that the caller has loaded, with those that follow from the model."""
    if reference is not None:
        raise ConfigError(
            f"reference: got '{reference}' with a loaded model, which reads itself. Fix: load the reference model, "
            "or give model=NAME"
        )
    if fixed := [name for name in _FIXED if name in options]:
        raise ConfigError(f"{fixed[0]} has no effect on a loaded model. Fix: load it so, or give model=NAME")
    model: Any = given[0]
    path = str(getattr(model, "name_or_path", "") or type(model).__name__)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    context = {} if positions is None else {"model.context_tokens": int(positions)}
    return {"model.path": path, **context, **options}


def _check(given: Loaded, named: str) -> None:
    """Raise a `ModelError` for a loaded model or tokenizer that cannot be used."""
    model, tokenizer = given
    checked_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], named, key="model")
    check_finite(model, f"model '{named}'")
    check_split(model)
