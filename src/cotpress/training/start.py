"""The weights that a student starts from, other than those of the run's model.

    start         student   trained                              saved
    adapter       LoRA      the adapter itself (`further`)       the adapter
    adapter       LoRA      a new adapter on merged weights      one adapter, the sum of both (`merge`)
    adapter       full      all weights, the adapter merged      whole model
    whole model   LoRA      a new adapter on its weights         whole model, the adapter merged
    whole model   full      all weights                          whole model

So a finished student is an adapter on the run's model or a whole model, as without a start, and every reader of
students loads it in the same way. The sum of two adapters is an adapter: with W + s1 B1 A1 + s2 B2 A2, its matrices are
A = [A1; A2] and B = [s1 B1, s2 B2]. Training computes with the first sum rounded to the number format of the model, as
merging does; an answer computes with all three terms rounded once.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.foreign import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from cotpress.modeling.loading import load_model, load_tokenizer, quiet_transformers, tokenizer_fingerprint
from cotpress.modeling.sources import directory_sha256
from cotpress.modeling.weights import ADAPTER, MODEL, TrainedWeights
from cotpress.store.artifacts import ArtifactStore
from cotpress.training.config import Method, SftConfig, StartAdapter, TuneConfig

KEY = "sft.start"
"""Setting of the start, for messages."""
_PARTS = ("lora_A", "lora_B")
_RECIPE = {"r": "lora_rank", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
"""Settings of an adapter, each with the value of the recipe that has to agree."""
_OTHER_WEIGHTS = ("modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Weights that a student starts from; picklable.

    Attributes:
        weights: A LoRA adapter on the run's model, or a whole model.
        trains_adapter: True if the adapter itself is trained further.
    """

    weights: TrainedWeights
    trains_adapter: bool

    @classmethod
    def of(cls, weights: TrainedWeights, config: SftConfig) -> "Start":
        """The start of a student of this configuration."""
        further = config.start_adapter is StartAdapter.further and config.tune.method is Method.lora
        return cls(weights=weights, trains_adapter=weights.is_adapter and further)

    def identity(self) -> dict[str, Any]:
        """Part of an identity: the content of the weights, and what is trained."""
        content = directory_sha256(Path(self.weights.path))
        return {"start": {"content": content, "trains_adapter": self.trains_adapter}}

    def makes_adapter(self, tune: TuneConfig) -> bool:
        """True if the student is saved as an adapter."""
        return self.weights.is_adapter and tune.method is Method.lora

    def check(self, tune: TuneConfig, model: ModelConfig, store: ArtifactStore) -> None:
        """Refuse a start that this recipe cannot train on.

        Raises:
            ConfigError: The recipe has another rank, alpha or dropout, or a whole model another tokenizer.
            ModelError: The adapter is no LoRA adapter, or one with other trained weights.
        """
        if not self.weights.is_adapter:
            check_tokenizer(Path(self.weights.path), model, store, key=KEY)
        elif tune.method is Method.lora:
            _check_lora(_settings(Path(self.weights.path)), self.weights.path, merge=not self.trains_adapter)
            if self.trains_adapter:
                self._check_recipe(tune)

    def _check_recipe(self, tune: TuneConfig) -> None:
        own = _settings(Path(self.weights.path))
        other = {name: own.get(key) for key, name in _RECIPE.items() if own.get(key) != getattr(tune, name)}
        if other:
            got = ", ".join(f"sft.tune.{name}={getattr(tune, name)}" for name in other)
            fix = " ".join(f"sft.tune.{name}={value}" for name, value in other.items())
            raise ConfigError(
                f"{KEY}: '{self.weights.path}' is trained further, which needs the settings of its adapter, and got "
                f"{got}. Fix: {fix}, or sft.start_adapter=merge, which trains a new adapter on top"
            )

    def load(self, base: ModelConfig, store: ArtifactStore, **options: Any) -> Any:
        """Load the weights on the run's model; an adapter that is trained further stays one. Options of `load_model`.

        Raises:
            ModelError: See `load_model`.
        """
        model, adapter = self.weights.on(base)
        if adapter is not None:
            return load_model(model, store, adapter=adapter, merge_adapter=not self.trains_adapter, **options)
        return load_model(model, store, **{**options, "key": KEY})

    def finish(self, workdir: Path, base: ModelConfig, store: ArtifactStore) -> None:
        """Bring the new adapter in `workdir/adapter` into the form of the student; see the table of the module."""
        if self.trains_adapter or not (workdir / ADAPTER).is_dir():
            return
        if self.weights.is_adapter:
            _add_adapter(Path(self.weights.path), workdir / ADAPTER)
            return
        model, _ = self.weights.on(replace(base, hub_id=base.path))  # by which the adapter names its model
        merged = load_model(model, store, adapter=workdir / ADAPTER, merge_adapter=True, key=KEY)
        with quiet_transformers():
            merged.save_pretrained(workdir / MODEL, safe_serialization=True)
        load_tokenizer(base, store).save_pretrained(workdir / MODEL)
        for file in (workdir / ADAPTER).iterdir():
            file.unlink()
        (workdir / ADAPTER).rmdir()


def check_tokenizer(folder: Path, base: ModelConfig, store: ArtifactStore, *, key: str) -> bool:
    """Check that the tokenizer of a whole model is that of `base`, whose tokens it reads; False if it has none.

    Raises:
        ConfigError: It is another one.
    """
    if not (folder / "tokenizer.json").is_file():
        return False
    own = ModelConfig(name=folder.name, source=ModelSource.hub, path=str(folder.absolute()))
    if tokenizer_fingerprint(load_tokenizer(own, store)) != tokenizer_fingerprint(load_tokenizer(base, store)):
        setting = "model@reference.base" if key == "reference.path" else "model"
        raise ConfigError(
            f"{key}: the model in '{folder}' has another tokenizer than '{base.name}'. Fix: {setting}=NAME of the "
            "model that it was trained from"
        )
    return True


def _settings(adapter: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return content


def _check_lora(settings: dict[str, Any], named: str, *, merge: bool) -> None:
    """Refuse an adapter that is trained on more than low-rank matrices, or that has no sum with another one."""
    odd = [name for name in _OTHER_WEIGHTS if settings.get(name)]
    odd += [] if settings.get("peft_type") == "LORA" else ["peft_type"]
    odd += [] if settings.get("bias", "none") == "none" else ["bias"]
    if merge:
        odd += [name for name in ("use_dora", "rank_pattern", "alpha_pattern", "lora_bias") if settings.get(name)]
    if odd:
        got = ", ".join(f"{name}={settings.get(name)}" for name in odd)
        further = "sft.start_adapter=further, or " if merge else ""
        raise ModelError(
            f"{KEY}: '{named}' has {got} in its {ADAPTER_CONFIG}, allowed: a plain LoRA adapter. Fix: {further}merge "
            "it into its model (merge_and_unload) and give the folder of the result, or sft=full"
        )


def _add_adapter(start: Path, folder: Path) -> None:
    """Add the adapter in `start` to the new one in `folder`, whose rank becomes the sum of both.

    A module that one of them does not adapt gets zeros for it, so that all modules have the same rank.
    """
    settings = [_settings(place) for place in (start, folder)]
    weights = [load_file(place / ADAPTER_WEIGHTS) for place in (start, folder)]
    modules = sorted({_module(name) for part in weights for name in part})
    made: dict[str, torch.Tensor] = {}
    for module in modules:
        a, b = zip(*(_matrices(w, s, module, weights) for w, s in zip(weights, settings, strict=True)), strict=True)
        made[f"{module}.lora_A.weight"], made[f"{module}.lora_B.weight"] = torch.cat(a), torch.cat(b, dim=1)
    rank = sum(int(s["r"]) for s in settings)
    names = sorted({module.removeprefix("base_model.model.") for module in modules})
    joined = {**settings[1], "r": rank, "lora_alpha": rank, "use_rslora": False, "target_modules": names}
    save_file(made, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(joined, indent=2, sort_keys=True) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


def _module(name: str) -> str:
    module, _, part = name.removesuffix(".weight").rpartition(".")
    if part not in _PARTS:
        raise ModelError(f"{KEY}: the adapter has the weight {name}, allowed: {', '.join(_PARTS)} of linear layers")
    return module


def _matrices(
    weights: dict[str, torch.Tensor], settings: dict[str, Any], module: str, all_weights: list[dict[str, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A `[r, in]` and s * B `[out, r]` of a module, float32; zeros where the adapter does not have it."""
    rank = int(settings["r"])
    names = [f"{module}.{part}.weight" for part in _PARTS]
    if names[0] not in weights:
        a, b = (next(w[name] for w in all_weights if name in w) for name in names)
        return torch.zeros(rank, a.shape[1]), torch.zeros(b.shape[0], rank)
    scale = settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return weights[names[0]].float(), scale * weights[names[1]].float()
