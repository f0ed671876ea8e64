from collections.abc import Callable
from pathlib import Path

import pytest

from cotpress.modeling.config import ModelConfig
from cotpress.training.config import Method, TuneConfig

SMALL = {
    "vocab_size": 600,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., ModelConfig]:
    """A model small enough to be trained in a test, as a folder with a `config.json`."""

    def make(kind: str = "llama", **settings: object) -> ModelConfig:
        from transformers import AutoConfig

        folder = tmp_path / kind
        AutoConfig.for_model(kind, **{**SMALL, **settings}).save_pretrained(folder)
        return ModelConfig(name=kind, path=str(folder))

    return make


@pytest.fixture
def tune() -> Callable[[Method], TuneConfig]:
    """The recipe of a training."""

    def make(method: Method) -> TuneConfig:
        return TuneConfig(method=method, learning_rate=1e-3, epochs=1, sequences_per_step=8, seed=0)

    return make
