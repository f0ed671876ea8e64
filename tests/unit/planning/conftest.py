from collections.abc import Callable
from pathlib import Path

import pytest

from cotpress.modeling.config import ModelConfig
from cotpress.training.config import Method, TuneConfig
from support.remembered import remembered

SMALL = {
    "vocab_size": 600,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelConfig]:
    """A model small enough to be trained in a test, as a folder with a `config.json`; one for equal settings."""

    def folder_of(kind: str, **settings: object) -> Path:
        from transformers import AutoConfig

        folder = tmp_path_factory.mktemp(kind)
        AutoConfig.for_model(kind, **{**SMALL, **settings}).save_pretrained(folder)
        return folder

    folder = remembered(folder_of)
    return lambda kind="llama", **settings: ModelConfig(name=kind, path=str(folder(kind, **settings)))


@pytest.fixture
def tune() -> Callable[[Method], TuneConfig]:
    """The recipe of a training."""

    def make(method: Method) -> TuneConfig:
        return TuneConfig(method=method, learning_rate=1e-3, epochs=1, sequences_per_step=8, seed=0)

    return make
