"""The record of a training beside its weights, from which a reader learns the prompt that the model was trained on.

A model that is asked another prompt, or a ratio by a marker that it has never seen, answers too, and its numbers mean
nothing. So `evaluate.py` compares its settings with the record, and counts the thinking of a model that has one as that
of a student of `train.py`. Weights that were trained elsewhere have none.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.prompts import ChatConfig

TRAINING_CONFIG = "training_config.json"
"""File beside the weights; downloaded with them from the hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """Names and settings of the training of a student or reference model; no path of this machine.

    Attributes:
        base_model: Hub id of the model that it was trained from; None if that is a folder.
        chat: Conversation format of its training sequences.
        marker_ratios: Ratios of its training traces that a control marker announced; empty without a marker.
        selection: Ratios and rules by which its thinking was compressed; empty for a reference model.
        names: Names of the data and of the scorer, as far as they are known.
    """

    base_model: str | None
    chat: ChatConfig
    marker_ratios: Sequence[float] = ()
    selection: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelConfig, **more: Any) -> Self:
        """The record of a model trained from `model`."""
        known = model.path if model.source is ModelSource.hub and not Path(model.path).expanduser().exists() else None
        return cls(base_model=model.hub_id or known, chat=model.chat, **more)

    def text(self) -> str:
        """The content of the file."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def beside(cls, folder: Path, named: str) -> Self | None:
        """The record beside the weights in `folder`, which messages call `named`; None without one.

        Raises:
            ModelError: The file is no record.
        """
        path = folder / TRAINING_CONFIG
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            chat = {f.name: content["chat"][f.name] for f in fields(ChatConfig) if f.name in content["chat"]}
            ratios = tuple(float(ratio) for ratio in content["marker_ratios"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ModelError(
                f"'{named}': {path} is no record of a training: {type(error).__name__}: {error}. Fix: fetch or train "
                "it again, or remove the file and give the settings of its training"
            ) from error
        return cls(base_model=content.get("base_model"), chat=ChatConfig(**chat), marker_ratios=ratios)

    @property
    def has_marker(self) -> bool:
        """True if a marker announced ratios in its training."""
        return any(ratio < 1 for ratio in self.marker_ratios)

    def thinks_as(self, chat: ChatConfig) -> bool:
        """True if its thinking was opened and closed in training as it is in `chat`."""
        own = self.chat
        return (own.thinking_open, own.thinking_close) == (chat.thinking_open, chat.thinking_close)


def check_chat(record: TrainingRecord, chat: ChatConfig, named: str, key: str, *, marker: bool) -> None:
    """Raise a `ConfigError` if the conversation format `chat` at the setting `key` is not that of the training.

    The text of the ratio marker is compared only if a `marker` is used.
    """
    names = [f.name for f in fields(ChatConfig) if marker or f.name != "ratio_marker"]
    other = {name: getattr(record.chat, name) for name in names if getattr(record.chat, name) != getattr(chat, name)}
    if other:
        got = ", ".join(f"{key}.{name} {getattr(chat, name)!r}" for name in other)
        raise ConfigError(
            f"{key}: '{named}' was trained with another prompt ({TRAINING_CONFIG} beside it): got {got}. "
            f"Fix: {' '.join(_settings(other, key))}"
        )


def _settings(values: Mapping[str, str | None], key: str) -> Iterator[str]:
    """Settings to type in a shell; Hydra has no escape for a line break, so the shell's is used."""
    for name, value in values.items():
        # An interpolation would be resolved in the settings of the reader.
        text = "null" if value is None else '"' + value.replace('"', '\\"').replace("${", "\\${") + '"'
        setting = f"{key}.{name}={text}"
        if setting.isprintable():
            yield shlex.quote(setting)
        else:
            escaped = setting.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")
            yield f"$'{escaped}'"
