"""Trained weights: a PEFT adapter that goes on a base model, or a whole model that replaces it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from cotpress.errors import ArtifactError, ConfigError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.foreign import ADAPTER_CONFIG, check_adapter
from cotpress.store.artifacts import Artifact

ADAPTER, MODEL = "adapter", "model"
"""Folders of the weights inside an artifact of the sft or reference stage."""
MODEL_CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedWeights:
    """A PEFT adapter in a folder or on the hub, or a whole model in a folder."""

    path: str
    is_adapter: bool

    @classmethod
    def below(cls, folder: Path) -> Self | None:
        """The safetensors weights in `folder`, `folder/adapter` or `folder/model`; None if there are none."""
        for settings, inside in ((ADAPTER_CONFIG, ADAPTER), (MODEL_CONFIG, MODEL)):
            for place in (folder, folder / inside):
                if (place / settings).is_file() and any(place.glob("*.safetensors")):
                    return cls(path=str(place), is_adapter=settings == ADAPTER_CONFIG)
        return None

    @classmethod
    def of(cls, trained: Artifact | str) -> Self:
        """The weights of an artifact of the sft or reference stage, or the adapter in a folder or of a hub id.

        Raises:
            ArtifactError: The artifact holds no weights.
        """
        if isinstance(trained, str):
            inside = cls.below(Path(trained).expanduser())
            return inside if inside is not None and inside.is_adapter else cls(path=trained, is_adapter=True)
        weights = cls.below(trained.path)
        if weights is None:
            files = sorted(trained.manifest["files"])
            raise ArtifactError(f"artifact {trained.key} holds no weights in {ADAPTER}/ or {MODEL}/ but {files}")
        return weights

    @classmethod
    def saved(cls, folder: Path, key: str) -> Self:
        """The weights in a folder that the setting `key` names, which are a PEFT adapter or a whole model.

        Raises:
            ConfigError: There is no folder.
            ModelError: It holds no weights, or an adapter that fails the checks of `foreign`.
        """
        folder = folder.expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{key}: there is no folder '{folder}' (looked at {folder.absolute()})")
        if (weights := cls.below(folder)) is None:
            raise ModelError(
                f"{key}: '{folder}' holds no weights: {sorted(p.name for p in folder.iterdir())[:12]}. Allowed: a PEFT "
                f"adapter ({ADAPTER_CONFIG}) or a whole model ({MODEL_CONFIG}) with safetensors weights, or a folder "
                "of outputs/artifacts with one of them"
            )
        if weights.is_adapter:
            check_adapter(Path(weights.path), str(folder), key)
        return weights

    def on(self, base: ModelConfig) -> tuple[ModelConfig, str | None]:
        """The model to load, and the adapter to put on it (None for a whole model)."""
        if self.is_adapter:
            return base, self.path
        return replace(base, source=ModelSource.hub, path=self.path, revision=None), None
